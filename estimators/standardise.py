"""Standardisation of x and theta: learned once from weighted training events, stored as buffers.

Every trained estimator starts with it, so that networks see columns of mean 0 and width 1 whatever
the units. Constant columns and missing entries are treated here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.toys.base import Events, EventSource, Feature, in_chunks

_CONSTANT = 1e-6


class Standardise(nn.Module):
    """(value - mean) / std per column, shape (n, columns).

    Missing entries do not enter mean and std and become 0. With ``presence=True`` one more column
    per feature that can be missing says whether the entry is there (1) or not (0): shape (n, dim).

    Attributes:
        missing: the value that marks a missing entry, per column; None where there is none.
        dim: number of columns after the transformation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, columns: int, missing: Sequence[float | None] | None = None, *, presence: bool = False) -> None:
        super().__init__()
        marks = [None] * columns if missing is None else list(missing)
        self.missing = {column: mark for column, mark in enumerate(marks) if mark is not None}
        self.presence = presence
        self.dim = columns + (len(self.missing) if presence else 0)
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))

    @classmethod
    def of_features(cls, features: Sequence[Feature]) -> Standardise:
        """For the x of a ratio or posterior network: missing entries become 0 and a presence column."""
        return cls(len(features), [feature.missing for feature in features], presence=True)

    def learn(self, value: Tensor, weight: Tensor) -> None:
        """Mean and width of the columns of ``value`` (n, columns) under |``weight``| (n,).

        Columns that are constant (or always missing) keep width 1.
        """
        moments = _Moments()
        self._add(value, weight, moments)
        self._settle(moments)

    def forward(self, value: Tensor) -> Tensor:
        """Standardised columns, then presence columns if asked for."""
        scaled = (value - self.mean) / self.std
        if not self.missing:
            return scaled
        present = self._present(value)
        scaled = torch.where(present, scaled, torch.zeros_like(scaled))
        if not self.presence:
            return scaled
        return torch.cat([scaled, present[:, list(self.missing)].to(scaled.dtype)], -1)

    def inverse(self, scaled: Tensor) -> Tensor:
        """Back to the units of the columns (missing entries cannot be restored)."""
        return scaled * self.std + self.mean

    def log_jacobian(self) -> Tensor:
        """log |d scaled / d value|, a scalar: minus the sum of the log widths."""
        return -self.std.log().sum()

    def _add(self, value: Tensor, weight: Tensor, moments: _Moments) -> None:
        value = value.double()
        moments.add(value, weight.double().abs()[:, None] * self._present(value))

    def _settle(self, moments: _Moments) -> None:
        mean, std = moments.mean, moments.std
        varies = std > _CONSTANT * mean.abs()
        self.mean = mean.to(self.mean)
        self.std = std.where(varies, torch.ones_like(std)).to(self.std)

    def _present(self, value: Tensor) -> Tensor:
        present = torch.ones_like(value, dtype=torch.bool)
        for column, mark in self.missing.items():
            present[:, column] = value[:, column] != mark
        return present


class _Moments:
    """Weighted means and widths of columns from parts of the events, to rounding those of all at once.

    Two parts with sums of weights W, V, means m, n and sums of squared deviations S, T are together S + T + (n - m)^2 W V / (W + V)
    around m + (n - m) V / (W + V) (Chan, Golub, LeVeque 1979, STAN-CS-79-773, here with weights).
    """

    def __init__(self) -> None:
        self.total = self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    @property
    def std(self) -> Tensor:
        return (self.squares / _or_one(self.total)).sqrt()

    def add(self, value: Tensor, weights: Tensor) -> None:
        """Values (n, columns) and their weights (n, columns)."""
        total = weights.sum(0)
        mean = (weights * value).sum(0) / _or_one(total)
        squares = (weights * (value - mean) ** 2).sum(0)
        both = self.total + total
        distance, share = mean - self.mean, total / _or_one(both)
        self.squares = self.squares + squares + distance**2 * self.total * share
        self.mean = self.mean + distance * share
        self.total = both


def learn_in_one_pass(source: EventSource, *learned: tuple[Standardise, Callable[[Events], Tensor]]) -> Tensor:
    """Learn each standardisation from columns (n, k) of the training events; returns the `mean_weight`.

    Streamed events are read once, a batch at a time; events in memory give the same numbers as `Standardise.learn`.
    """
    moments = [_Moments() for _ in learned]
    total, n = torch.zeros((), dtype=torch.float64), 0
    for events in in_chunks(source):
        total, n = total + events.weight.double().sum(), n + len(events)
        for (standardise, columns), each in zip(learned, moments, strict=True):
            standardise._add(columns(events), events.weight, each)
    for (standardise, _), each in zip(learned, moments, strict=True):
        standardise._settle(each)
    return _positive_mean(total, n)


def mean_weight(weight: Tensor) -> Tensor:
    """Mean event weight, a float64 scalar; raises `InputError` unless it is positive.

    Losses divide by it, so that learning rates and gradient clipping mean the same for all toys.
    """
    return _positive_mean(weight.double().sum(), len(weight))


def require_positive(source: EventSource, reason: str) -> None:
    """Raise `SkipCell` with the reason if an event has negative weight; a stream is read once."""
    if any(bool((events.weight < 0).any()) for events in in_chunks(source)):
        raise SkipCell(reason)


def _positive_mean(total: Tensor, n: int) -> Tensor:
    if not bool(total > 0):
        raise InputError(f"events: expected a positive sum of weights; got {total.item():g} from {n} events")
    return total / n


def _or_one(total: Tensor) -> Tensor:
    return total.where(total > 0, torch.ones_like(total))
