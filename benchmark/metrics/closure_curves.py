"""Closure of each feature as a curve: reweighted over simulated events in bins of equal mass, with its standard error.

Nominal events weighted by the learned ratio, against events simulated at the first closure point; ``closure``, series
``FEATURE [UNIT]``. It is the shape of the difference whose size is ``reweighting_chi2``.
"""

from __future__ import annotations

import torch

from touchneedle.benchmark.metrics.column import Column, bin_of, equal_mass_edges, histogram
from touchneedle.benchmark.metrics.picture_events import axis, known_points
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.toys.base import Events, Feature

MAX_FEATURES = 4
CURVE_BINS = 12


def closure_curves(features: tuple[Feature, ...], carried: Transport, target: Events) -> list[Row]:
    """Curves of the first four features; none where the ratio has no finite answer."""
    if carried.problem:
        return []
    rows = []
    for index, feature in enumerate(features[:MAX_FEATURES]):
        source, truth = Column.of(carried.x[:, index], carried.weight), Column.of(target.x[:, index], target.weight)
        rows += _feature_rows(feature, source, truth)
    return rows


def _feature_rows(feature: Feature, source: Column, truth: Column) -> list[Row]:
    edges = equal_mass_edges(feature, truth, CURVE_BINS)
    index = [bin_of(feature, column.value, edges) for column in (source, truth)]
    count = len(edges) + 2
    share, square = zip(*[_sums(i, column, count) for i, column in zip(index, (source, truth), strict=True)], strict=True)
    ratio = share[0] / share[1]
    error = ratio * (square[0] / share[0] ** 2 + square[1] / share[1] ** 2).sqrt()
    # Missing entries have no place on the axis.
    points = []
    for k in range(1, count):
        inside = index[1] == k
        if bool(inside.any()):
            x = float(truth.value[inside].median())
            points.append((x, *(float(value[k]) for value in (ratio, ratio - error, ratio + error))))
    return known_points("closure", axis(feature), points)


def _sums(index: torch.Tensor, column: Column, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of each bin and its variance, for weights that sum to one."""
    share, square = histogram(index, column.weight, count), histogram(index, column.weight.square(), count)
    total = square.sum()
    return share, (square - 2 * share * square + share**2 * total).clamp_min(0)
