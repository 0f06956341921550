"""One feature of a weighted sample: what the scores that look at features one by one share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Feature

_NORMAL_QUARTILES = 1.3489795003921634


@dataclass(frozen=True)
class Column:
    """One feature of a weighted sample: values (n,) and weights (n,) that sum to one."""

    value: Tensor
    weight: Tensor

    @classmethod
    def of(cls, value: Tensor, weight: Tensor) -> Column:
        """From weights of any sum."""
        weight = weight.double()
        return cls(value.double(), weight / weight.sum())

    def known(self, feature: Feature) -> Column:
        """Without missing entries."""
        mask = is_known(feature, self.value)
        return Column.of(self.value[mask], self.weight[mask])

    def quantile(self, levels: Tensor) -> Tensor:
        """Smallest values below which at least these shares of the weight lie, shape of ``levels``."""
        order = self.value.argsort()
        mass = self.weight[order].cumsum(0)
        return self.value[order][torch.searchsorted(mass, levels.to(mass)).clamp_max(len(mass) - 1)]

    @property
    def effective(self) -> float:
        """Effective number of events."""
        return float(1 / self.weight.square().sum()) if len(self.weight) else 0.0


def is_known(feature: Feature, value: Tensor) -> Tensor:
    """Which values (n,) of a feature are not missing."""
    known = ~value.isnan()
    # Events are float32, and so is the mark that they carry.
    return known if feature.missing is None else known & (value.float() != torch.tensor(feature.missing, dtype=torch.float32))


def robust_scale(column: Column) -> float:
    """Interquartile range / 1.349, or the standard deviation where that is zero, or 1."""
    low, high = column.quantile(torch.tensor([0.25, 0.75])).tolist()
    return (high - low) / _NORMAL_QUARTILES or float(column.value.std()) or 1.0


def equal_mass_edges(feature: Feature, column: Column, bins: int) -> Tensor:
    """Inner edges (at most bins - 1) of bins (low, high] with equal weight; atoms of discrete features are kept whole."""
    known = column.known(feature)
    if not len(known.value):
        return known.value
    return known.quantile(torch.arange(1, bins, dtype=torch.float64) / bins).unique()


def bin_of(feature: Feature, value: Tensor, edges: Tensor) -> Tensor:
    """0 for missing entries, then the bins in order."""
    return torch.where(is_known(feature, value), torch.bucketize(value, edges) + 1, 0)


def histogram(index: Tensor, weight: Tensor, count: int) -> Tensor:
    """Sum of weights (n,) in each of ``count`` bins."""
    return torch.zeros(count, dtype=torch.float64).index_add_(0, index, weight)
