"""Averages with their standard errors, and what becomes of them in a record: used by the fit metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Direction, Metric

Average = tuple[float, float]
"""Value and standard error; NaN where there is too little to average."""

NOTHING: Average = (math.nan, math.nan)
TOO_FEW = "too few valid fits to average"


def mean_and_error(values: Tensor, shared: float = 0.0) -> Average:
    """Mean and std sqrt(1/E + shared): ``shared`` is a variance common to all values, relative to theirs."""
    if len(values) < 2:
        return NOTHING
    return float(values.mean()), float(values.std()) * math.sqrt(1 / len(values) + shared)


def width_and_error(values: Tensor) -> Average:
    """Standard deviation s and its error sqrt((m4 - s^4) / E) / (2 s), which holds for any distribution."""
    if len(values) < 2:
        return NOTHING
    width = float(values.std())
    fourth = float((values - values.mean()).pow(4).mean())
    return width, math.sqrt(max(0.0, fourth - width**4) / len(values)) / (2 * max(width, 1e-300))


def median_and_error(values: Tensor, generator: torch.Generator, replicas: int = 200) -> Average:
    """Median and its bootstrap error."""
    if len(values) < 2:
        return NOTHING
    index = torch.randint(len(values), (replicas, len(values)), generator=generator)
    return float(values.median()), float(values[index].median(-1).values.std())


def share_and_error(mask: Tensor) -> Average:
    """Share of true entries and its binomial error."""
    if not len(mask):
        return NOTHING
    share = float(mask.double().mean())
    return share, share_error(share, len(mask))


def share_error(share: float, n: int) -> float:
    """Binomial error with half a count added on either side, so that 0 and 1 have one too."""
    padded = (share * n + 0.5) / (n + 1)
    return math.sqrt(padded * (1 - padded) / n)


def value_row(name: str, value: Average, n: int, direction: Direction, at: Row, reason: str = TOO_FEW) -> Metric:
    """The row of an average over ``n``, or n/a with the reason where there was too little to average."""
    if not math.isfinite(value[0]):
        return missing_fit(name, reason, **at)
    stderr = value[1] if math.isfinite(value[1]) else None
    return Metric(family="fit", name=name, at=at, value=value[0], stderr=stderr, n=n, direction=direction)


def target_row(name: str, value: Average, n: int, target: float, at: Row, reason: str = TOO_FEW) -> Metric:
    """The row of an average that should be ``target``."""
    return value_row(name, value, n, "target", {**at, "target": target}, reason)


def missing_fit(name: str, reason: str, **at: Any) -> Metric:
    """An n/a row of the fit family that says why."""
    return Metric(family="fit", name=name, at={**at, "reason": reason}, value=None)
