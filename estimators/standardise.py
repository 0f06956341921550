"""Standardisation of x and theta: learned once from weighted training events, stored as buffers.

Every trained estimator starts with it, so that networks see columns of mean 0 and width 1 whatever
the units. Constant columns and missing entries are treated here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Feature

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
        value = value.double()
        weights = weight.double().abs()[:, None] * self._present(value)
        total = weights.sum(0)
        mean = (weights * value).sum(0) / total.where(total > 0, torch.ones_like(total))
        std = ((weights * (value - mean) ** 2).sum(0) / total.where(total > 0, torch.ones_like(total))).sqrt()
        varies = std > _CONSTANT * mean.abs()
        self.mean = mean.to(self.mean)
        self.std = std.where(varies, torch.ones_like(std)).to(self.std)

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

    def _present(self, value: Tensor) -> Tensor:
        present = torch.ones_like(value, dtype=torch.bool)
        for column, mark in self.missing.items():
            present[:, column] = value[:, column] != mark
        return present


def mean_weight(weight: Tensor) -> Tensor:
    """Mean event weight, a float64 scalar; raises `InputError` unless it is positive.

    Losses divide by it, so that learning rates and gradient clipping mean the same for all toys.
    """
    mean = weight.double().mean()
    if not bool(mean > 0):
        raise InputError(f"events: expected a positive sum of weights; got {weight.double().sum().item():g} from {len(weight)} events")
    return mean
