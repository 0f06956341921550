"""Errors of fits of weighted events: the sandwich covariance.

    C = H^-1 J H^-1,   H = -grad grad ln L,   J = sum_i w_i^2 s_i s_i^T + K

with s_i the gradient of ln[nu(theta) p(x_i|theta)] and K the curvature of the terms beside the events (Langenbruch 2022, Eur.
Phys. J. C 82, 393, arXiv:1911.01303, eq. 18). Auxiliary measurements and counts of control regions are data of weight one, so
that K enters J as it enters H, and C is H^-1, up to fluctuations, where all weights are one. The weights are taken as known:
an error of their own (of an efficiency, say) is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.events_at import ratio_and_score
from touchneedle.inference.fittable import Fittable
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.terms import ExactTerms, Summaries
from touchneedle.toys.base import EventSource, ParameterSpace

if TYPE_CHECKING:
    from touchneedle.inference.fit_result import FitResult

_BATCH = 2**16


@runtime_checkable
class KnowsEventScores(Protocol):
    """A likelihood that says what each event contributes to the gradient of ln L per unit of weight."""

    def event_scores(self, theta: Tensor, events: Any) -> Tensor:
        """grad ln[nu(theta) p(x_i|theta)] at theta (p,), shape (n, p)."""
        ...


def sandwich_covariance(likelihood: Fittable, events: EventSource, result: FitResult) -> Tensor:
    """H^-1 J H^-1 at a best fit (p, p); raises `InputError` for a likelihood that does not know the scores of its events."""
    total = score_information(likelihood, events, result.theta, result.auxiliary)
    return result.inverse_hessian @ total @ result.inverse_hessian


def score_information(likelihood: Fittable, events: EventSource, theta: Tensor, auxiliary: Tensor, each: float = 1.0) -> Tensor:
    """J (p, p) at theta (p,): with weights of one the information that the spread of scores shows, where no maximum is needed.

    ``events`` may be a sample of the data, in which each stands for ``each`` of them.
    """
    total = curvature_beside_events(likelihood, theta, auxiliary)
    for batch in events.batches(_BATCH):
        weighted = batch.weight.double().cpu()[:, None] * event_scores(likelihood, batch, theta)
        total = total + each * weighted.T @ weighted
    return total


def event_scores(likelihood: Fittable, events: Any, theta: Tensor) -> Tensor:
    """grad ln[nu(theta) p(x_i|theta)], less the slope of a local normalisation, at theta (p,): shape (n, p)."""
    if isinstance(likelihood, KnowsEventScores):
        return likelihood.event_scores(theta, events)
    if not isinstance(likelihood, Likelihood):
        raise InputError(
            f"weighted events: expected a likelihood with event_scores(theta, events); {type(likelihood).__name__} has none: "
            "fit unweighted events, or declare Asimov data (asimov=True)"
        )
    return ratio_and_score(likelihood.estimator, events.x, theta)[1] + _common_score(likelihood, theta)


def curvature_beside_events(likelihood: Fittable, theta: Tensor, auxiliary: Tensor) -> Tensor:
    """Minus the Hessian, at theta (p,), of the constraint terms and of control regions, if there are any (p, p)."""
    total = constraint_curvature(likelihood.parameters, theta, auxiliary)
    control = getattr(likelihood, "control", None)
    if control is None:
        return total
    return total - torch.autograd.functional.hessian(lambda point: control.log_prob(point[None], control.observed[None]).sum(), theta)


def constraint_curvature(parameters: ParameterSpace, theta: Tensor, auxiliary: Tensor) -> Tensor:
    """Minus the Hessian of the constraint terms at theta (p,) (p, p)."""
    none = torch.zeros(1, dtype=torch.float64)
    return ExactTerms(parameters).curvature(theta[None], Summaries(none, none, auxiliary[None]))[0]


def refuse_weighted(weighted: bool, asimov: bool, what: str) -> None:
    """Raise `InputError` where 2 Delta ln L of weighted events would be read as a chi2."""
    if weighted and not asimov:
        raise InputError(
            f"{what}: expected unweighted events; 2 Delta ln L of weighted ones is no chi2: use the errors of fit (sandwich), "
            "or say asimov=True where the weights are expected numbers of events"
        )


def _common_score(likelihood: Likelihood, theta: Tensor) -> Tensor:
    """grad [ln nu(theta) - c(theta)], which all events share (p,)."""
    point = theta.clone().requires_grad_()
    with torch.enable_grad():
        value = 0.0 * point.sum()
        if likelihood.rates is not None:
            value = value + likelihood.rates(point[None]).sum().log()
        if likelihood.normalisation is not None:
            value = value - likelihood.normalisation(point[None]).sum()
        return torch.autograd.grad(value, point)[0]
