"""Divergence of the learned density q from the exact p, and what samples of q say with p known.

With D = log p - log q on test events x ~ p (and 0 where both vanish):

* ``kl``: E_p[D], standard error sd(D) / sqrt(n); infinite where q misses an event.
* ``kl_positive``: E_p[exp(-D) - 1 + D], never negative, of lower variance; equal to ``kl`` unless q leaks mass
  outside the support of p. Their difference is a diagnostic of tails and leaks.
* ``tv``: total variation, E_p[(1 - q/p)_+].
* ``optimal_auc``: events of p and q ranked on D, the best that any classifier can do; 0.5 if p = q.
* ``leak``: share of q outside the support of p, from samples of q; where p is not known, outside the declared
  supports of the features. Its null is the share of events of p itself, which float32 can push over an edge.

Events of p at which log p is not finite (float32 again) have no D: they are left out and counted in ``share_finite``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.auc import auc_and_error
from touchneedle.benchmark.metrics.averages import share_and_error
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.coordinates import are_numbers, is_missing
from touchneedle.benchmark.metrics.event_densities import EventDensities, log_difference
from touchneedle.benchmark.metrics.scores import MetricInfo
from touchneedle.benchmark.metrics.statistics import At, finite_row, missing_row
from touchneedle.benchmark.records import Metric, Null
from touchneedle.toys.base import ExactToy, Feature

METRICS = (
    MetricInfo("density", "kl", "KL(p||q) in nats: mean of log p - log q", "lower", "log_prob, exact density"),
    MetricInfo("density", "kl_positive", "KL(p||q) in nats, low variance, blind to leaks", "lower", "log_prob, exact density"),
    MetricInfo("density", "tv", "total variation between p and q", "lower", "log_prob, exact density"),
    MetricInfo("density", "optimal_auc", "AUC of the best classifier between p and q", "target", "log_prob, sample, exact density"),
    MetricInfo("density", "leak", "share of q outside the support of p", "lower", "sample, exact density"),
)
NOT_EXACT = "the toy has no exact density"
NO_LOG_PROB = "the estimator has no log_prob"
NO_SAMPLE = "the estimator has no sample"


def divergence_rows(context: EvaluationContext, events: EventDensities, drawn: Tensor | None) -> list[Metric]:
    """The rows of one theta point, given events ``drawn`` from q (n_sample, d), None without the capability."""
    return [*_mean_rows(events), _optimal_auc(context, events, drawn), _leak(context, events, drawn)]


def _mean_rows(events: EventDensities) -> list[Metric]:
    difference, log_p, at = events.log_difference, events.log_p, At(point=events.point)
    if difference is None or log_p is None:
        reason = NOT_EXACT if log_p is None else NO_LOG_PROB
        return [missing_row("density", name, reason, at) for name in ("kl", "kl_positive", "tv")]
    inside = torch.isfinite(log_p)
    share = float((inside & torch.isfinite(difference)).double().mean())
    at = at if share == 1 else at | {"share_finite": share}
    difference, weight = difference[inside], events.weight[inside]
    values = {
        "kl": difference,
        "kl_positive": torch.expm1(-difference) + difference,
        "tv": (-torch.expm1(-difference)).clamp_min(0),
    }
    return [finite_row("density", name, value, at, weight=weight, what="log_prob") for name, value in values.items()]


def _optimal_auc(context: EvaluationContext, events: EventDensities, drawn: Tensor | None) -> Metric:
    toy, theta, at = context.toy, context.points[events.point], At(point=events.point)
    difference = events.log_difference
    if not isinstance(toy, ExactToy) or difference is None:
        return missing_row("density", "optimal_auc", NO_LOG_PROB if isinstance(toy, ExactToy) else NOT_EXACT, at)
    if drawn is None:
        return missing_row("density", "optimal_auc", NO_SAMPLE, at)
    present = are_numbers(drawn, toy.spec.features)
    ranked = log_difference(*_both_densities(context, toy, drawn[present], theta))
    share = float((~difference.isnan()).sum() + (~ranked.isnan()).sum()) / (len(difference) + len(drawn))
    if share < 1:
        return missing_row("density", "optimal_auc", "drawn events or their log_prob are NaN somewhere", at | {"share_finite": share})
    auc, stderr = auc_and_error(difference, ranked, events.weight)
    at["target"] = 0.5
    return Metric(family="density", name="optimal_auc", at=at, value=auc, stderr=stderr, n=len(ranked), direction="target")


def _both_densities(context: EvaluationContext, toy: ExactToy, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log q of drawn events x (n, d), each (n,)."""
    with torch.no_grad():
        parts = [(toy.log_prob(part, theta), context.estimator.log_prob(part, theta).cpu()) for part in x.split(context.batch_size)]
    log_p, log_q = zip(*parts, strict=True)
    return torch.cat(log_p), torch.cat(log_q)


def _leak(context: EvaluationContext, events: EventDensities, drawn: Tensor | None) -> Metric:
    toy, at, null = context.toy, At(point=events.point), None
    if drawn is None:
        return missing_row("density", "leak", NO_SAMPLE, at)
    if isinstance(toy, ExactToy) and events.log_p is not None:
        outside = _without_density(context, toy, drawn, context.points[events.point])
        value, stderr = share_and_error(torch.isneginf(events.log_p))
        null = Null(value=value, stderr=stderr)
    elif any(feature.support for feature in toy.spec.features):
        outside = _outside_supports(drawn, toy.spec.features)
        at["support"] = "features"
    else:
        return missing_row("density", "leak", f"{NOT_EXACT}, and no feature declares its support", at)
    value, stderr = share_and_error(outside)
    return Metric(family="density", name="leak", at=at, value=value, stderr=stderr, n=len(outside), null=null)


def _without_density(context: EvaluationContext, toy: ExactToy, x: Tensor, theta: Tensor) -> Tensor:
    """Mask (n,) of events that are no numbers, or where p = 0."""
    outside = ~are_numbers(x, toy.spec.features)
    with torch.no_grad():
        log_p = [toy.log_prob(part, theta) for part in x[~outside].split(context.batch_size)]
    return outside.masked_scatter(~outside, ~torch.isfinite(torch.cat(log_p)))


def _outside_supports(x: Tensor, features: tuple[Feature, ...]) -> Tensor:
    """Mask (n,) of events with a feature outside its declared support; entries marked as missing are inside."""
    outside = torch.zeros(len(x), dtype=torch.bool)
    for column, feature in zip(x.unbind(-1), features, strict=True):
        if feature.support is not None:
            low, high = feature.support
            outside |= ~((column >= low) & (column <= high)) & ~is_missing(column, feature)
    return outside
