"""Reweighting closure, feature by feature: do events of a, weighted by r_b / r_a, look like events of b?

``reweighting_chi2``: both samples are normalised and histogrammed in bins of equal mass; the difference d has the
covariance V = sum over both samples of sum w^2 (1_bin - share)(1_bin - share)^T, of rank bins - 1, and
chi2 = d^T V^-1 d without the last bin. Missing entries have a bin of their own. The value is chi2 / dof, and its error
that of a non-central chi2, sqrt(2 dof + 4 max(0, chi2 - dof)) / dof.

``reweighting_w1``: Wasserstein distance of order 1 between the (non-missing) weighted samples, in units of 1.349^-1
interquartile ranges of b; on the circle, for periodic features, after Rabin, Delon, Gousseau 2011 (in radians). It is
never zero, so beside it stands its null: the distance if both samples followed the same law, by a multiplier bootstrap
that perturbs every event's own weight and so knows what a few heavy events do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.column import Column, bin_of, equal_mass_edges, histogram, robust_scale
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.benchmark.metrics.wasserstein import CdfGap, period_of
from touchneedle.benchmark.records import Metric, Null
from touchneedle.toys.base import Events, Feature

MAX_BINS = 20
EVENTS_PER_BIN = 50
MIN_IN_BIN = 25
W1_REPEATS = 50
NAMES = ("reweighting_chi2", "reweighting_w1")


def reweighting_rows(
    features: tuple[Feature, ...], carried: Transport, target: Events, at: dict[str, Any], generator: torch.Generator
) -> list[Metric]:
    """Both rows of every feature, for events carried from ``at["point"]`` to ``at["to_point"]`` and events of the latter."""
    rows = []
    for index, feature in enumerate(features):
        here = {**at, "feature": feature.name}
        if carried.problem:
            rows += [missing_row("closure", name, carried.problem, {**here, **carried.health()}) for name in NAMES]
            continue
        source, truth = Column.of(carried.x[:, index], carried.weight), Column.of(target.x[:, index], target.weight)
        health = carried.health()
        rows += [_chi2_row(feature, source, truth, here, health), _w1_row(feature, source, truth, here, health, generator)]
    return rows


def _chi2_row(feature: Feature, source: Column, truth: Column, at: dict[str, Any], health: dict[str, Any]) -> Metric:
    chi2, dof = shape_chi2(feature, source, truth)
    if dof == 0:
        return missing_row("closure", "reweighting_chi2", "fewer than two bins have enough events", {**at, **health})
    p_value = float(torch.special.gammaincc(torch.tensor(dof / 2), torch.tensor(chi2 / 2).double()))
    stderr = math.sqrt(2 * dof + 4 * max(0.0, chi2 - dof)) / dof
    at = {**at, "target": 1.0, "chi2": chi2, "dof": dof, "p_value": p_value, **health}
    n = len(source.value) + len(truth.value)
    return Metric(family="closure", name="reweighting_chi2", at=at, value=chi2 / dof, stderr=stderr, n=n, direction="target")


def shape_chi2(feature: Feature, source: Column, truth: Column) -> tuple[float, int]:
    """chi2 and dof between two normalised histograms of weighted events."""
    wanted = int(min(source.effective, truth.effective) / EVENTS_PER_BIN)
    edges = equal_mass_edges(feature, truth, max(2, min(MAX_BINS, wanted)))
    bins = [bin_of(feature, column.value, edges) for column in (source, truth)]
    count = len(edges) + 2
    merged = _merged(count, [(index, column.weight) for index, column in zip(bins, (source, truth), strict=True)])
    dof = int(merged.max())
    if dof == 0:
        return 0.0, 0
    shares = [histogram(merged[index], c.weight, dof + 1) for index, c in zip(bins, (source, truth), strict=True)]
    parts = [_covariance(merged[i], c.weight, s) for i, c, s in zip(bins, (source, truth), shares, strict=True)]
    difference, covariance = (shares[0] - shares[1])[:-1], (parts[0] + parts[1])[:-1, :-1]
    return float(difference @ torch.linalg.solve(covariance, difference)), dof


def _merged(count: int, samples: list[tuple[Tensor, Tensor]]) -> Tensor:
    """New index of each bin, neighbours joined until each holds 25 effective events of every sample: shape (count,)."""
    sums = [histogram(index, weight, count) for index, weight in samples]
    squares = [histogram(index, weight.square(), count) for index, weight in samples]
    totals, group, start = torch.zeros(count, dtype=torch.int64), 0, 0
    for end in range(1, count + 1):
        totals[start:end] = group
        if all(_effective(s[start:end], q[start:end]) >= MIN_IN_BIN for s, q in zip(sums, squares, strict=True)):
            group, start = group + 1, end
    # What is left at the end is too small for a bin of its own.
    totals[start:] = max(0, group - 1)
    return totals


def _effective(weight: Tensor, square: Tensor) -> float:
    return float(weight.sum() ** 2 / square.sum().clamp_min(1e-300))


def _covariance(index: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    square = histogram(index, weight.square(), len(share))
    cross = square[:, None] * share[None]
    return torch.diag(square) - cross - cross.T + square.sum() * share[:, None] * share[None]


def _w1_row(
    feature: Feature, source: Column, truth: Column, at: dict[str, Any], health: dict[str, Any], generator: torch.Generator
) -> Metric:
    first, second = source.known(feature), truth.known(feature)
    if min(len(first.value), len(second.value)) < 2:
        return missing_row("closure", "reweighting_w1", "fewer than two events are not missing", {**at, **health})
    gap = CdfGap.between(first, second, period_of(feature))
    unit = 1.0 if feature.kind == "periodic" else robust_scale(second)
    value = float(gap.distance(gap.difference)) / unit
    null, spread = (distances / unit for distances in gap.bootstrap(W1_REPEATS, generator))
    at = {**at, "null_repeats": W1_REPEATS, "z": (value - float(null.mean())) / float(null.std().clamp_min(1e-300)), **health}
    return Metric(
        family="closure",
        name="reweighting_w1",
        at=at,
        value=value,
        stderr=float(spread.std()),
        n=len(first.value) + len(second.value),
        null=Null(value=float(null.mean()), stderr=float(null.std()) / math.sqrt(W1_REPEATS)),
    )
