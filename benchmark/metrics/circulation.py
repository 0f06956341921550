"""Closure of scores that are not gradients: circulation and mean, for estimators that answer ``score`` by a method of their own.

A score network may be no gradient of anything; then log_ratio depends on the path along which it is integrated.

``circulation``: integral of the score around a rectangle in theta, event by event, rms over events, divided by the rms of the
integral along half of it, corner to corner (the log_ratio between them); 0 for a gradient. The rectangles are half a prior sigma
to either side of nominal, in the first three pairs of parameters; four Gauss-Legendre nodes a side.

``score_mean``: E_{p(x|theta_0)}[score] = 0, as n sigma_k times the mean (see `normalisation_rows`): ``fit_events`` events.

Where ``score`` is the gradient of log_ratio both say nothing new (no circulation; the mean is ``normalisation_slope``): n/a.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.normalisation_rows import covariance_at_nominal, slope_row, zero_mean_score
from touchneedle.benchmark.metrics.scores import MetricInfo
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.estimators.base import Estimator
from touchneedle.inference.maximise import sigma_of
from touchneedle.toys.base import ParameterSpace

METRICS = (
    MetricInfo("closure", "circulation", "rms loop integral of the score over that of half the loop", "lower", "score of its own"),
    MetricInfo("closure", "score_mean", "n sigma E[score] at nominal and fit_events, per parameter", "target", "score of its own"),
)
NAMES = tuple(info.name for info in METRICS)
CIRCULATION_EVENTS = 2_000
SCORE_EVENTS = 20_000
MAX_LOOPS = 3
HALF_SIDE = 0.5
NODES = 4
_CHUNK = 8_192


def rows(context: EvaluationContext) -> list[Metric]:
    """Both metrics, or why they do not apply."""
    reason = _needless(context.estimator)
    if reason:
        return [missing_row("closure", name, reason) for name in NAMES]
    return [*_circulation_rows(context), *_mean_rows(context)]


def _needless(estimator: Estimator) -> str:
    if "score" not in estimator.capabilities:
        return "the estimator has no score"
    return "" if type(estimator).score is not Estimator.score else "the score is the gradient of log_ratio"


def _circulation_rows(context: EvaluationContext) -> list[Metric]:
    space = context.toy.spec.parameters
    if len(space) < 2:
        return [missing_row("closure", "circulation", "one parameter has no loops")]
    x = context.events_at(space.nominal, min(CIRCULATION_EVENTS, context.config.n_test), "closure", "circulation").x
    return [_loop_row(context.estimator, x, space, pair) for pair in list(itertools.combinations(range(len(space)), 2))[:MAX_LOOPS]]


def _loop_row(estimator: Estimator, x: Tensor, space: ParameterSpace, pair: tuple[int, int]) -> Metric:
    at: dict[str, Any] = {"pair": " x ".join(space.names[column] for column in pair)}
    corners = rectangle(space, pair)
    sides = [side_integral(estimator, x, a, b) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)]
    loop, half = torch.stack(sides).sum(0), sides[0] + sides[1]
    if not bool((loop.isfinite() & half.isfinite()).all()):
        share = float((~(loop.isfinite() & half.isfinite())).double().mean())
        return missing_row("closure", "circulation", "the score is not finite for some events", {**at, "share_nonfinite": share})
    a, b = loop.square(), half.square().clamp_min(1e-300)
    value = (a.mean() / b.mean()).sqrt()
    # Delta method on sqrt(E[a] / E[b]).
    stderr = 0.5 * value * (a / a.mean().clamp_min(1e-300) - b / b.mean()).std() / len(x) ** 0.5
    return Metric(family="closure", name="circulation", at=at, value=float(value), stderr=float(stderr), n=len(x))


def rectangle(space: ParameterSpace, pair: tuple[int, int]) -> list[Tensor]:
    """Corners of a rectangle around nominal, counter-clockwise from the lower left, each (p,)."""
    u = space.to_normal(space.nominal).clamp(-1, 1)
    corners = []
    for signs in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        moved = u.clone()
        moved[list(pair)] += HALF_SIDE * torch.tensor(signs, dtype=u.dtype)
        values, corner = space.from_normal(moved), space.nominal.clone()
        corner[list(pair)] = values[list(pair)]
        corners.append(torch.minimum(torch.maximum(corner, space.low), space.high))
    return corners


def side_integral(estimator: Estimator, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Integral of the score along a straight line from one point (p,) to another, for each event: shape (n,)."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    total = torch.zeros(len(x), dtype=torch.float64)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        theta = start + 0.5 * (1 + node) * (end - start)
        total += 0.5 * weight * own_score(estimator, x, theta) @ (end - start)
    return total


def own_score(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """The estimator's ``score`` at one point (p,): shape (n, p), detached."""
    return torch.cat([estimator.score(part, theta).detach().cpu() for part in x.split(_CHUNK)])


def _mean_rows(context: EvaluationContext) -> list[Metric]:
    space = context.toy.spec.parameters
    events = context.events_at(space.nominal, min(SCORE_EVENTS, context.config.n_test), "closure", "score")
    score = own_score(context.estimator, events.x, space.nominal)
    control, how = zero_mean_score(context, events)
    covariance = covariance_at_nominal(context.toy, control if control is not None and how == "exact score" else score, events.weight)
    if not bool(score.isfinite().all()) or not bool(covariance.isfinite().all()):
        return [missing_row("closure", "score_mean", "the score or its information is not finite", {"parameter": k}) for k in space.names]
    unit = context.toy.fit_events * sigma_of(covariance)
    at = {"n_events": context.toy.fit_events, "point": 0, "control": how}
    return [
        slope_row(
            "score_mean", score[:, k], None if control is None else control[:, k], events.weight, float(unit[k]), {**at, "parameter": name}
        )
        for k, name in enumerate(space.names)
    ]
