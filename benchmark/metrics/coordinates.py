"""Coordinates in which samples are compared: every feature in robust units of the truth, missing entries apart.

A feature with median m and interquartile range q of the true events becomes (x - m) / (q / 1.349): sigma of a Gaussian.
Periodic features are wrapped into their support. Entries marked as missing sit at the median, and a further column
says that they are missing, so that their marker's value has no weight of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Feature

QUARTILES_PER_SIGMA = 1.349
QUANTILE_EVENTS = 100_000


@dataclass(frozen=True)
class Coordinates:
    """The map x (n, d) -> (n, k), k = d + the number of features that can be missing; float64 after rounding to float32.

    Attributes:
        names: of the k columns.
    """

    features: tuple[Feature, ...]
    centre: Tensor
    scale: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns: the features, then one ``missing NAME`` for each that can be missing."""
        names = [feature.name for feature in self.features]
        return (*names, *(f"missing {feature.name}" for feature in self.features if feature.missing is not None))

    def __call__(self, x: Tensor) -> Tensor:
        """Coordinates of events x (n, d)."""
        columns, missing = [], []
        for k, feature in enumerate(self.features):
            column, absent = present_values(x[:, k], feature)
            columns.append(torch.where(absent, 0.0, (column - self.centre[k]) / self.scale[k]))
            if feature.missing is not None:
                missing.append(absent.double())
        return torch.stack([*columns, *missing], -1)


def fit_coordinates(x: Tensor, features: tuple[Feature, ...]) -> Coordinates:
    """Coordinates of the true events x (n, d), weights left aside."""
    moments = [_centre_and_scale(*present_values(x[:QUANTILE_EVENTS, k], feature)) for k, feature in enumerate(features)]
    centre, scale = torch.tensor(moments, dtype=torch.float64).unbind(-1)
    return Coordinates(features, centre, scale)


def present_values(column: Tensor, feature: Feature) -> tuple[Tensor, Tensor]:
    """One feature (n,) in float32 precision, wrapped if periodic, and the mask of its missing entries."""
    absent = is_missing(column, feature)
    # Both samples must have the same precision: rounding alone would tell them apart.
    values = column.float().double()
    if feature.kind == "periodic" and feature.support is not None:
        low, high = feature.support
        values = low + torch.remainder(values - low, high - low)
    return values, absent


def is_missing(column: Tensor, feature: Feature) -> Tensor:
    """Mask (n,) of the entries marked as missing."""
    if feature.missing is None:
        return torch.zeros(len(column), dtype=torch.bool)
    return column.isnan() if math.isnan(feature.missing) else column.float() == torch.tensor(feature.missing).float()


def are_numbers(x: Tensor, features: tuple[Feature, ...]) -> Tensor:
    """Mask (n,) of events whose every entry is a number or marked as missing."""
    entries = [torch.isfinite(column) | is_missing(column, feature) for column, feature in zip(x.unbind(-1), features, strict=True)]
    return torch.stack(entries).all(0)


def _centre_and_scale(column: Tensor, absent: Tensor) -> tuple[float, float]:
    """Median and robust sigma of what is there; the plain standard deviation, or 1, where the quartiles agree."""
    present = column[~absent]
    if len(present) < 2:
        return 0.0, 1.0
    low, middle, high = torch.quantile(present, torch.tensor([0.25, 0.5, 0.75], dtype=present.dtype)).tolist()
    return middle, (high - low) / QUARTILES_PER_SIGMA or float(present.std()) or 1.0
