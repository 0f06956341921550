"""Averages with their standard errors, and what becomes of them in a record: used by the fit metrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Average = tuple[float, float]
"""Value and standard error; NaN where there is too little to average."""

NOTHING: Average = (math.nan, math.nan)


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
