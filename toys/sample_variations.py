"""Systematic variations that come as other events: vertical morphing between nominal samples and those at minus and plus one sigma."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.weight_variations import smooth_between

__all__ = ["SampleVariations", "sample_number"]


@dataclass(frozen=True)
class SampleVariations:
    """Weights of the events of all samples at nuisances beta (q,) in sigma, relative to those within their own sample.

        R(beta) = R_0 exp sum_j s(beta_j; ln R_down j / R_0, ln R_up j / R_0)
        p(x|beta) = p_0 + sum_j s(beta_j; p_down j - p_0, p_up j - p_0)

    for each process, with s of `smooth_between`: what HistFactory does in every bin, here event by event. A side without a sample is the
    mirror image of the other: p_down - p_0 = p_0 - p_up, and R_down / R_0 = R_0 / R_up. Exact at nominal and at each anchor alone;
    normalised and linear in the densities everywhere, so that off the anchors some weights are negative. No event moves: a peak that
    shifts by more than its width becomes two. Sample 0 is nominal, see `sample_number`.

    Attributes:
        log_yields: ln R_down / R_0 and ln R_up / R_0 of each nuisance (q, 2, k); 0 where a process has no such samples.
        there: whether a process has samples of a nuisance (q, 2, k), down and up.
    """

    log_yields: Tensor
    there: Tensor

    @classmethod
    def measured(cls, sums: Tensor) -> SampleVariations:
        """From the sums of weights (1 + 2 q, k) in every sample, positive where a process has events in it."""
        ends = sums[1:].reshape(len(sums) // 2, 2, -1) if len(sums) > 1 else sums.new_zeros(0, 2, sums.shape[1])
        there = ends > 0
        own = torch.where(there, ends / sums[0], 1.0).log()
        return cls(torch.where(there, own, -own.flip(1)), there)

    def factors(self, sample: Tensor, label: Tensor, beta: Tensor) -> Tensor:
        """What weights are multiplied by (n,) at beta (n, q), of events in samples (n,) of processes (n,)."""
        one, zero = torch.ones_like(beta), torch.zeros_like(beta)
        # s is linear in its anchors: the coefficients of p_down - p_0 and of p_up - p_0, one of which may be minus the other.
        to_down, to_up = (smooth_between(beta, *ends) for ends in ((one, zero), (zero, one)))
        has_down, has_up = (self.there[:, side][:, label].T for side in (0, 1))
        down = torch.where(has_down, to_down - torch.where(has_up, 0.0, to_up), 0.0)
        up = torch.where(has_up, to_up - torch.where(has_down, 0.0, to_down), 0.0)
        coefficients = torch.cat([1 - (down + up).sum(-1, keepdim=True), torch.stack([down, up], -1).flatten(1)], -1)
        share = coefficients.gather(-1, sample.unsqueeze(-1)).squeeze(-1)
        log_down, log_up = (self.log_yields[:, side][:, label].T for side in (0, 1))
        own = torch.cat([torch.zeros_like(share)[:, None], torch.stack([log_down, log_up], -1).flatten(1)], -1)
        log_yield = smooth_between(beta, log_down, log_up).sum(-1) - own.gather(-1, sample.unsqueeze(-1)).squeeze(-1)
        return share * log_yield.exp()


def sample_number(nuisance: int, side: int) -> int:
    """Number of the sample of the nuisance number ``nuisance`` at -1 or 1 sigma."""
    return 1 + 2 * nuisance + (side > 0)
