"""Normalisation where it matters: a drift of one per cent per sigma is ten units of ln L in a fit of 1,000 events.

``normalisation``: Z(theta) = E_{p(x|theta_0)}[r(x|theta)] at each anchor of the nuisances and at joint points beyond
them, where no template was, on events independent of everything that the estimator has seen. At nominal a ratio is 1
by definition; a ``log_prob`` is integrated there (`integral`).

``normalisation_slope``: n sigma_k d ln Z / d theta_k, in a fit of n = ``toy.fit_events``. With the normalisation relative
to the events at theta_0 this is exact, d ln Z / d theta = E_{p(x|theta_0)}[grad log r(x|theta_0)], which is 0 for a true ratio.
The local normalisation that fits subtract, a quadratic around the fit, is subtracted here. sigma_k comes from the
information at nominal, n Cov[score] + constraints + rates, of the exact score where there is one, else of the learned one.
A score of mean zero, event by event, is subtracted as control variate, where the toy knows one: the exact score, or
the joint score of the simulator (Brehmer et al. 2018, arXiv:1805.00020), times its regression coefficient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.integral import integral_at_nominal
from touchneedle.benchmark.metrics.learned_ratio import LearnedRatio
from touchneedle.benchmark.metrics.nuisance_points import anchors, joint_points
from touchneedle.benchmark.metrics.scores import SHARED_SUPPORT, MetricInfo
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.benchmark.records import Metric
from touchneedle.estimators.base import Estimator
from touchneedle.inference.events_at import ratio_and_score
from touchneedle.inference.maximise import covariance_of, sigma_of
from touchneedle.inference.normalisation import RADIUS, fit_local_normalisation
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.terms import ExactTerms, Summaries, reference_rate
from touchneedle.toys.base import Events, Toy

METRICS = (
    MetricInfo("closure", "normalisation", "E[r] at nominal, at nuisance anchors, at joint points beyond them", "target", SHARED_SUPPORT),
    MetricInfo("closure", "normalisation_slope", "n sigma d ln Z / d theta at fit_events, per parameter", "target", SHARED_SUPPORT),
)
ANCHOR_EVENTS = 100_000
MAX_PAIRS = 200_000
ROUNDING = 1e-12


def rows(context: EvaluationContext, learned: LearnedRatio) -> list[Metric]:
    """Both metrics."""
    return [*integral_at_nominal(context), *_moved_rows(context, learned), *_slope_rows(context, learned.estimator)]


def _moved_rows(context: EvaluationContext, learned: LearnedRatio) -> list[Metric]:
    space = context.toy.spec.parameters
    places = [("anchor", point) for point in anchors(space)] + [("joint", point) for point in joint_points(space)]
    lacking = {"anchor": "the toy has no nuisance parameters", "joint": "the toy has fewer than two nuisance parameters"}
    have = {where for where, _ in places}
    missing = [missing_row("closure", "normalisation", why, {"where": where}) for where, why in lacking.items() if where not in have]
    if not places:
        return missing
    n = max(2, min(context.config.n_test, ANCHOR_EVENTS, MAX_PAIRS // len(places)))
    events = context.events_at(space.nominal, n, "closure", "normalisation")
    ratios = learned.between(events.x, space.nominal, torch.stack([point.theta for _, point in places]))
    weight = events.weight.double()
    carried = [Transport(events.x, weight, ratio) for ratio in ratios.unbind(-1)]
    return missing + [
        sample.mean_row("normalisation", {"where": where, **point.at}) for sample, (where, point) in zip(carried, places, strict=True)
    ]


def _slope_rows(context: EvaluationContext, estimator: Estimator) -> list[Metric]:
    name, names = "normalisation_slope", context.toy.spec.parameters.names
    nominal = context.toy.spec.parameters.nominal
    events = context.events_at(nominal, context.config.n_test, "closure", "slope")
    score = scores_at(estimator, events.x, nominal)
    if not bool(score.isfinite().all()):
        share = float((~score.isfinite().all(-1)).double().mean())
        return [missing_row("closure", name, f"the score is not finite for a share {share:.3g} of the events", {"share_nonfinite": share})]
    control, how = zero_mean_score(context, events)
    covariance = covariance_at_nominal(context.toy, score if control is None or how != "exact score" else control, events.weight)
    if not bool(covariance.isfinite().all()):
        return [missing_row("closure", name, "the information at nominal is singular: no sigma", {"parameter": k}) for k in names]
    local = _local_slope(estimator, nominal, covariance)
    if not bool(local.isfinite().all()):
        return [missing_row("closure", name, "the local normalisation is not finite", {"parameter": k}) for k in names]
    unit = context.toy.fit_events * sigma_of(covariance)
    at = {"n_events": context.toy.fit_events, "point": 0, "control": how}
    return [
        slope_row(
            name,
            score[:, k] - local[k],
            None if control is None else control[:, k],
            events.weight,
            float(unit[k]),
            {**at, "parameter": names[k]},
        )
        for k in range(len(names))
    ]


def slope_row(name: str, score: Tensor, control: Tensor | None, weight: Tensor, unit: float, at: dict[str, Any]) -> Metric:
    """Weighted mean of a score (n,), times ``unit``, with a control variate of mean zero (n,) regressed out."""
    share = weight.double() / weight.double().sum()
    if control is not None:
        centred = control - share @ control
        slope = (share * centred) @ score / (share @ centred.square()).clamp_min(1e-300)
        score = score - slope * control
    mean = share @ score
    stderr = max(float((share.square() @ (score - mean).square()).sqrt()), ROUNDING)
    at = {**at, "target": 0.0, "sigma_n": unit}
    return Metric(family="closure", name=name, at=at, value=unit * float(mean), stderr=unit * stderr, n=len(score), direction="target")


def scores_at(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """Gradient of the learned log_ratio at one point (p,): shape (n, p); NaN where log_ratio itself is not finite."""
    ratio, score = ratio_and_score(estimator, x, theta)
    return torch.where(ratio.isfinite()[:, None], score, torch.nan)


def zero_mean_score(context: EvaluationContext, events: Events) -> tuple[Tensor | None, str]:
    """A score (n, p) whose mean at the events' own point is exactly zero, and which one it is."""
    if context.oracle is not None:
        return scores_at(context.oracle, events.x, context.toy.spec.parameters.nominal), "exact score"
    if events.joint_score is not None and bool(events.joint_score.isfinite().all()):
        return events.joint_score.double(), "joint score"
    return None, "none"


def covariance_at_nominal(toy: Toy, score: Tensor, weight: Tensor) -> Tensor:
    """Covariance (p, p) of a fit to ``fit_events`` events at nominal, from scores (n, p); NaN if the information is singular."""
    theta = toy.spec.parameters.nominal[None]
    count = torch.tensor([float(toy.fit_events)], dtype=torch.float64)
    terms = ExactTerms(toy.spec.parameters, toy.rates, reference_rate(toy.rates, theta[0]))
    share = weight.double() / weight.double().sum()
    centred = score - share @ score
    information = toy.fit_events * centred.T @ (share[:, None] * centred)
    return covariance_of(information + terms.curvature(theta, Summaries(count, count, theta))[0])


def _local_slope(estimator: Estimator, theta: Tensor, covariance: Tensor) -> Tensor:
    local = fit_local_normalisation(estimator, Ball.around(theta, covariance, RADIUS, estimator.spec.parameters))
    if local is None:
        return torch.zeros_like(theta)
    point = theta.clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(local(point[None]).sum(), point)[0]
