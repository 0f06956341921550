"""Closure: does a learned ratio turn events of one point into events of another?

``mean_ratio``: E_{p(x|a)}[r(x|b) / r(x|a)] = 1 for every pair of points, and E_{p(x|theta_0)}[r(x|b)] = 1
from nominal. The ratio is the one that fits use: local normalisation, where the estimator asks for
it, is divided out. The effective sample size (sum w)^2 / sum w^2 says how far the test can be
trusted: a pair far apart has a mean carried by few events.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext, theta_points
from touchneedle.benchmark.metrics.scores import REGULAR, MetricInfo, Scores
from touchneedle.benchmark.metrics.statistics import mean_row, missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.estimators.base import Estimator

# At least these many points, so that a pair without nominal exists even in a quick evaluation.
N_POINTS = 3


METRICS = (
    MetricInfo("closure", "mean_ratio", "E_pa[r_b/r_a] between two points: 1 for a true ratio", "target", REGULAR),
    MetricInfo("closure", "effective_share", "effective share of the events behind mean_ratio", "higher", REGULAR),
)


def closure_scores(context: EvaluationContext) -> Scores:
    """``mean_ratio`` from nominal to each point and between the first two other points."""
    if not context.toy.regular:
        return Scores([missing_row("closure", "mean_ratio", "the toy is not regular: supports differ between points")])
    points = theta_points(context.toy, max(N_POINTS, context.config.n_points))
    pairs = [(0, b) for b in range(1, len(points))] + [(1, 2)]
    return Scores([row for a, b in pairs for row in _mean_ratio(context, points, a, b)])


def normalised_log_ratio(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """log_ratio (n, m) at points theta (m, p) as fits use it: local normalisation subtracted."""
    both = torch.cat([theta, estimator.spec.parameters.nominal[None].to(theta)])
    constant = estimator.log_normalisation(both)
    return (estimator.log_ratio_grid(x, theta) - (constant[:-1] - constant[-1])).detach()


def _mean_ratio(context: EvaluationContext, points: Tensor, a: int, b: int) -> list[Metric]:
    events = context.events_at(points[a], context.config.n_test, "closure", a)
    log_ratio = normalised_log_ratio(context.estimator, events.x, points[[a, b]])
    ratio = (log_ratio[:, 1] - log_ratio[:, 0]).exp()
    at = {"point": a, "to_point": b, "target": 1.0}
    row = mean_row("closure", "mean_ratio", ratio, at, weight=events.weight, direction="target")
    weight = ratio * events.weight.double()
    size = float(weight.sum() ** 2 / (weight**2).sum())
    share = size / len(weight)
    # Delta method on (sum w)^2 / (n sum w^2) with the moments of w.
    first, second = weight.mean(), (weight**2).mean()
    gradient = 2 * first / second * (weight - first) - first**2 / second**2 * (weight**2 - second)
    stderr = float(gradient.std() / len(weight) ** 0.5)
    at = {"point": a, "to_point": b}
    return [
        row,
        Metric(family="closure", name="effective_share", at=dict(at), value=share, stderr=stderr, n=len(weight), direction="higher"),
    ]
