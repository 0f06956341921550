"""Distances between events and a weighted sample: energy distance, and binned chi2 of each feature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.inference.centre import spaced

_FEWEST_EXPECTED = 5.0


@dataclass(frozen=True)
class EnergyDistance:
    """n [2 E|x - y| - E|x - x'| - E|y - y'|] between n events x and a weighted sample y, features in units of their widths.

    Zero in the mean only for equal distributions (Szekely and Rizzo 2013, J. Stat. Plan. Inference 143, 1249); means are over
    all pairs, an event with itself included.

    Attributes:
        sample: the sample, standardised (m, d).
        shift: subtracted from features (d,).
        scale: that they are divided by (d,).
        distances: within the sample (m, m).
        most: events used at most, evenly spaced.
    """

    sample: Tensor
    shift: Tensor
    scale: Tensor
    distances: Tensor
    most: int

    @classmethod
    def to(cls, sample: Tensor, weight: Tensor, most: int) -> EnergyDistance:
        """The distance to a sample (m, d), whose weights (m,) set the widths."""
        share = weight / weight.sum()
        shift = share @ sample
        scale = (share @ (sample - shift).square()).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        standard = (sample - shift) / scale
        return cls(standard, shift, scale, torch.cdist(standard, standard), most)

    def __call__(self, x: Tensor, weight: Tensor) -> float:
        """The distance of events x (n, d) to the sample with weights (m,)."""
        share = weight / weight.sum()
        chosen = (x[spaced(len(x), self.most)] - self.shift) / self.scale
        across = (torch.cdist(chosen, self.sample) @ share).mean()
        return float(len(x) * (2 * across - torch.cdist(chosen, chosen).mean() - share @ self.distances @ share))


@dataclass(frozen=True)
class BinnedChi2:
    """sum_b (n_b - N p_b)^2 / (N p_b) of one feature: N events against the shares p_b of a weighted sample.

    Attributes:
        edges: of the bins, without the outer ones (b - 1,).
        bins: bin of every event of the sample (m,).
    """

    edges: Tensor
    bins: Tensor

    @classmethod
    def to(cls, sample: Tensor, weight: Tensor, n_events: int, n_bins: int) -> BinnedChi2:
        """Bins of equal share of a sample (m,), at most ``n_bins``, with at least five of ``n_events`` expected in each.

        Values that occur often (categories, missing entries) make bins of their own; equal edges are one.
        """
        count = max(2, min(n_bins, int(n_events / _FEWEST_EXPECTED)))
        order = sample.argsort()
        share = weight[order].cumsum(0) / weight.sum()
        wanted = torch.arange(1, count, dtype=torch.float64) / count
        edges = sample[order][torch.searchsorted(share, wanted).clamp_max(len(sample) - 1)].unique()
        return cls(edges, torch.bucketize(sample, edges))

    def __call__(self, x: Tensor, weight: Tensor) -> float:
        """chi2 of events x (n,) against the sample with weights (m,)."""
        size = len(self.edges) + 1
        expected = torch.zeros(size, dtype=torch.float64).index_add_(0, self.bins, weight) * (len(x) / weight.sum())
        observed = torch.bincount(torch.bucketize(x, self.edges), minlength=size).double()
        filled = expected > 0
        return float(((observed - expected)[filled].square() / expected[filled]).sum())
