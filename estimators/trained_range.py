"""The range of theta that training events had, and the warning of those who ask outside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from touchneedle.toys.base import EventSource, in_chunks

# Share of its width by which the range may be left: the extremes of another thousand draws from the same prior are allowed.
RANGE_MARGIN = 0.15


class OutsideTrainedRange(UserWarning):
    """An answer at a theta that no training event had: an extrapolation."""


@contextmanager
def extrapolation_allowed() -> Iterator[None]:
    """Without the warning: for those who ask outside the trained range on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTrainedRange)
        yield


def range_of(source: EventSource) -> Tensor:
    """Lowest and highest theta of training events (2, p)."""
    chunks = in_chunks(source)
    first = next(chunks).theta
    low, high = first.amin(0), first.amax(0)
    for events in chunks:
        low, high = torch.minimum(low, events.theta.amin(0)), torch.maximum(high, events.theta.amax(0))
    return torch.stack([low, high])


def outside_range(theta: Tensor, trained: Tensor, names: Sequence[str]) -> list[str]:
    """Each parameter that some theta (..., p) takes outside the range (2, p) and its margin, with its range."""
    low, high = trained.to(theta)
    margin = RANGE_MARGIN * (high - low)
    beyond = ((theta < low - margin) | (theta > high + margin)).reshape(-1, len(low)).any(0)
    return [f"{names[k]} in [{low[k]:.3g}, {high[k]:.3g}]" for k in beyond.nonzero().flatten().tolist()]
