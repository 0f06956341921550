"""Slices through log_ratio, learned and exact: one feature moves, the others stay where the most central event has them.

The hypothesis is the nominal point with the first parameter of interest moved towards the 84 % quantile of its prior, so far that
the exact log_ratio of nominal events spreads by no more than 2 (without an exact answer all the way): beyond, no event is left for
which it matters. Curve ``slice``, series ``estimator|exact, FEATURE [UNIT], PARAMETER=VALUE``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.column import is_known
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.learned_ratio import normalised_log_ratio
from touchneedle.benchmark.metrics.picture_events import answers, axis, known_points, picture_events, spaced
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.toys.base import Feature

MAX_FEATURES = 3
SLICE_POINTS = 33
SLICE_EVENTS = 2_000
SHOWN = (0.005, 0.995)
SHARES = tuple(0.5**k for k in range(8))
MAX_SPREAD = 2.0


def slice_rows(context: EvaluationContext) -> list[Row]:
    """Slices along the first three features."""
    space, features = context.toy.spec.parameters, context.toy.spec.features
    x = picture_events(context, SLICE_EVENTS, "slice")
    column, theta = space.interest[0], _hypothesis(context, x)
    middle, place = _central(x, features), f"{space.names[column]}={float(theta[column]):.4g}"
    rows = []
    for index, feature in enumerate(features[:MAX_FEATURES]):
        grid = _grid(x[:, index], feature)
        along = middle.repeat(len(grid), 1)
        along[:, index] = grid.to(along)
        for who, estimator in answers(context).items():
            values = normalised_log_ratio(estimator, along, theta[None])[:, 0].cpu()
            rows += known_points("slice", f"{who}, {axis(feature)}, {place}", zip(grid.tolist(), values.tolist(), strict=True))
    return rows


def _hypothesis(context: EvaluationContext, x: Tensor) -> Tensor:
    """Theta (p,): the first of the shares of the way at which the exact log_ratio is not too far from zero."""
    space = context.toy.spec.parameters
    column = space.interest[0]
    end = space.nominal.clone()
    end[column] = space.parameters[column].prior.from_normal(torch.ones((), dtype=torch.float64))
    if context.oracle is None:
        return end
    theta = space.nominal + torch.tensor(SHARES, dtype=torch.float64)[:, None] * (end - space.nominal)
    spread = normalised_log_ratio(context.oracle, x, theta).std(0).cpu()
    near = (spread <= MAX_SPREAD).nonzero().flatten()
    return theta[near[0]] if len(near) else theta[-1]


def _central(x: Tensor, features: tuple[Feature, ...]) -> Tensor:
    """The event (d,) nearest to the median, in units of each feature's spread; of those with nothing missing, if there is one."""
    whole = torch.stack([is_known(feature, x[:, k]) for k, feature in enumerate(features)]).all(0)
    kept = x[whole] if bool(whole.any()) else x
    spread = kept.std(0).clamp_min(1e-12) if len(kept) > 1 else torch.ones_like(kept[0])
    return kept[((kept - kept.median(0).values) / spread).square().sum(-1).argmin()]


def _grid(values: Tensor, feature: Feature) -> Tensor:
    known = values[is_known(feature, values)].double()
    if feature.kind == "discrete" or len(known) < 2:
        return known.unique()[:SLICE_POINTS]
    low, high = known.quantile(torch.tensor(SHOWN, dtype=torch.float64)).tolist()
    return spaced(low, high, SLICE_POINTS)
