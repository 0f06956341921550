"""What the pictures of one toy look at: the same events in every evaluation, so that curves of several seeds can be averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.curves import curve_row
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import Feature
from touchneedle.toys.parameters import Parameter

PICTURE_SEED = 0


def picture_events(context: EvaluationContext, n: int, purpose: str) -> Tensor:
    """Features (n, d) of nominal events that depend on the toy alone, whatever the seed of the evaluation."""
    fixed = replace(context, seed=PICTURE_SEED)
    return fixed.events_at(context.toy.spec.parameters.nominal, n, "picture", purpose).x[:n]


def answers(context: EvaluationContext) -> dict[str, Estimator]:
    """The estimator and, where the toy has one, the exact answer."""
    return {"estimator": context.estimator} | ({} if context.oracle is None else {"exact": context.oracle})


def axis(name: Feature | Parameter) -> str:
    """Name and unit for the axis of a picture: ``mass [GeV]``; commas would end it."""
    text = f"{name.name} [{name.unit}]" if name.unit else name.name
    return text.replace(",", ";")


def known_points(curve: str, series: str, points: Iterable[tuple[float, ...]]) -> list[Row]:
    """Rows of the points (x, y[, low, high]) whose y is finite."""
    return [curve_row(curve, series, *point) for point in points if math.isfinite(point[1])]


def spaced(low: float, high: float, n: int) -> Tensor:
    """``n`` evenly spaced values, float64."""
    return torch.linspace(low, high, n, dtype=torch.float64)
