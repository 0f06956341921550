"""Slices through log_ratio, learned and exact: one feature moves, the others stay where the most central event has them.

The hypothesis is the nominal point with the first parameter of interest at the 84 % quantile of its prior. Curve ``slice``,
series ``estimator|exact, FEATURE [UNIT], PARAMETER=VALUE``.
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


def slice_rows(context: EvaluationContext) -> list[Row]:
    """Slices along the first three features."""
    space, features = context.toy.spec.parameters, context.toy.spec.features
    x = picture_events(context, SLICE_EVENTS, "slice")
    column, theta = space.interest[0], space.nominal.clone()
    theta[column] = space.parameters[column].prior.from_normal(torch.ones((), dtype=torch.float64))
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
