"""Mean score at the truth: the first-order bias of a fit, without fitting.

    bias = n I^-1 E_{p(x|theta*)}[grad log_ratio(x, theta*)],   I = total information at n events

The expectation is zero for the exact density; an error of the estimator's score is the bias itself. It misses what
is of second order (a bias of many sigma), and sees what a root mean square of log_ratio does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.events_at import ratio_and_score
from touchneedle.inference.maximise import covariance_of, sigma_of
from touchneedle.inference.normalisation import LocalNormalisation
from touchneedle.inference.pseudo_experiments import PseudoExperiments
from touchneedle.inference.terms import ExactTerms, Summaries
from touchneedle.toys.base import ParameterSpace


@dataclass(frozen=True)
class MeanScore:
    """First-order bias in sigma and its standard error, each (p,), from ``count`` events."""

    bias: Tensor
    stderr: Tensor
    count: int


def first_order_bias(
    estimator: Estimator,
    oracle: Estimator | None,
    experiments: PseudoExperiments,
    covariance: Tensor,
    normalisation: LocalNormalisation | None,
    *,
    max_events: int,
) -> MeanScore:
    """First-order bias in units of the sigma of ``covariance`` (p, p), which also sets n I^-1.

    The oracle's score, of mean zero, is subtracted event by event: the same expectation, less noise.
    ``covariance`` holds at ``experiments.n_events`` events (see `covariance_at` for another number).
    """
    theta = experiments.theta_true
    x = experiments.pool.x[:max_events]
    _, score = ratio_and_score(estimator, x, theta)
    if normalisation is not None:
        score = score - _slope(normalisation, theta)
    if oracle is not None:
        score = score - ratio_and_score(oracle, x, theta)[1]
    projected = score @ (experiments.n_events * covariance / sigma_of(covariance)[:, None]).T
    share = experiments.pool_share[: len(x)] / experiments.pool_share[: len(x)].sum()
    mean = share @ projected
    return MeanScore(mean, (share.square() @ (projected - mean).square()).sqrt(), len(x))


def covariance_at(n: int, covariance: Tensor, n_events: float, theta: Tensor, parameters: ParameterSpace) -> Tensor:
    """Covariance (p, p) at n events from that at ``n_events``: events scale, constraints do not."""
    one = torch.ones(1, dtype=torch.float64)
    constraint = ExactTerms(parameters).curvature(theta[None], Summaries(one, one, theta[None]))[0]
    per_event = (torch.linalg.inv(covariance) - constraint) / n_events
    return covariance_of(n * per_event + constraint)


def _slope(normalisation: LocalNormalisation, theta: Tensor) -> Tensor:
    point = theta.clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(normalisation(point[None]).sum(), point)[0]
