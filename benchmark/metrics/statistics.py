"""Rows of metrics from samples: means with standard errors, and n/a rows with their reason."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.records import Direction, Metric

At = dict[str, str | float | int | bool | None]
"""Where a row holds."""


def mean_row(
    family: str,
    name: str,
    values: Tensor,
    at: dict[str, Any] | None = None,
    *,
    weight: Tensor | None = None,
    direction: Direction = "lower",
) -> Metric:
    """The (weighted) mean of ``values`` (n,) and its standard error.

    Weighted: m = sum w v / sum w with variance sum w^2 (v - m)^2 / (sum w)^2 (ratio estimator).
    """
    values = values.double()
    weight = torch.ones_like(values) if weight is None else weight.double()
    total = weight.sum()
    mean = (weight * values).sum() / total
    variance = (weight**2 * (values - mean) ** 2).sum() / total**2
    n = len(values)
    stderr = math.sqrt(float(variance) * n / max(n - 1, 1))
    return Metric(family=family, name=name, at=dict(at or {}), value=float(mean), stderr=stderr, n=n, direction=direction)


def finite_row(family: str, name: str, values: Tensor, at: At, *, weight: Tensor | None = None, what: str) -> Metric:
    """`mean_row` of values that may be infinite (the mean is, too, and has no error) or NaN (n/a)."""
    if bool(values.isnan().any()):
        return missing_row(family, name, f"{what} is NaN for some events", at)
    row = mean_row(family, name, values, at, weight=weight)
    return row if bool(torch.isfinite(values).all()) else row.model_copy(update={"stderr": None})


def missing_row(family: str, name: str, reason: str, at: dict[str, Any] | None = None) -> Metric:
    """An n/a row that says why."""
    return Metric(family=family, name=name, at={**(at or {}), "reason": reason}, value=None)
