"""Wasserstein distance of order 1 between weighted samples of one feature, on the line and on the circle, with its null."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.column import Column
from touchneedle.toys.base import Feature

QUANTILES = 512
GAPS = 256


def period_of(feature: Feature) -> float | None:
    """Length of a periodic feature's circle: its support, or 2 pi; None for other kinds."""
    if feature.kind != "periodic":
        return None
    return 2 * math.pi if feature.support is None else feature.support[1] - feature.support[0]


@dataclass(frozen=True)
class CdfGap:
    """Difference of two weighted empirical distribution functions on the sorted union of their events.

    Attributes:
        mass: weight of each event, negative for the second sample (N,).
        from_first: whether the event belongs to the first sample (N,).
        width: distance to the next event (N,); the last is 0, or leads once around the circle.
        periodic: widths are in radians, and the distance is on the circle.
    """

    mass: Tensor
    from_first: Tensor
    width: Tensor
    periodic: bool

    @classmethod
    def between(cls, first: Column, second: Column, period: float | None = None) -> CdfGap:
        """The gap between two samples."""
        value, order = torch.cat([first.value, second.value]).sort()
        mass = torch.cat([first.weight, -second.weight])[order]
        last = value.new_zeros(1) if period is None else (period - (value[-1:] - value[:1])).clamp_min(0)
        width = torch.cat([value.diff(), last])
        return cls(mass, order < len(first.value), width if period is None else width * 2 * math.pi / period, period is not None)

    @property
    def difference(self) -> Tensor:
        """F_1 - F_2 to the right of each event (N,)."""
        return self.mass.cumsum(0)

    def distance(self, difference: Tensor) -> Tensor:
        """Integral of |difference| (..., N): shape (...,); on the circle less its median, which minimises it."""
        if self.periodic:
            difference = difference - _weighted_median(difference, self.width)
        return difference.abs() @ self.width

    def bootstrap(self, repeats: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Distances (repeats,) of perturbed samples: of the perturbation alone (the null), and added to the difference.

        Every event's weight is multiplied by a standard normal number. The sums are looked at where it matters, at the
        largest gaps and at quantiles, where they are normal with the variance of the weights summed.
        """
        places = self._places()
        cell = torch.searchsorted(places, torch.arange(len(self.mass)))
        width = self.width.new_zeros(len(places)).index_add_(0, (cell - 1).clamp_min(0), self._width_before())
        width[-1] = self.width[-1]
        moved = self.mass.new_zeros(repeats, len(places))
        for mask in (self.from_first, ~self.from_first):
            mass = torch.where(mask, self.mass, 0.0)
            variance = mass.new_zeros(len(places)).index_add_(0, cell, mass.square())
            change = variance.sqrt() * torch.randn(repeats, len(places), generator=generator, dtype=torch.float64)
            moved += change.cumsum(-1) - change.sum(-1, keepdim=True) * (mass.cumsum(0) / mass.sum())[places]
        coarse = replace(self, width=width)
        return coarse.distance(moved), coarse.distance(moved + self.difference[places])

    def _places(self) -> Tensor:
        """Sorted indices of the events at which perturbations are looked at; the last one is among them."""
        last = len(self.mass) - 1
        even = torch.linspace(0, last, min(len(self.mass), QUANTILES)).round().long()
        return torch.cat([even, self.width.topk(min(len(self.mass), GAPS)).indices, torch.tensor([last])]).unique()

    def _width_before(self) -> Tensor:
        """Distance from the event before (N,)."""
        return torch.cat([self.width.new_zeros(1), self.width[:-1]])


def _weighted_median(value: Tensor, weight: Tensor) -> Tensor:
    """Median along the last dimension, kept."""
    order = value.argsort(-1)
    mass = weight[order].cumsum(-1)
    place = (mass < 0.5 * mass[..., -1:]).sum(-1, keepdim=True)
    return value.gather(-1, order.gather(-1, place))
