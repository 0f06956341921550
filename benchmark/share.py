"""What one rank of a training by several processes does: its events of every batch, their weight, its random numbers.

Distributed data parallel training averages the gradients of the ranks after every step (Li et al. 2020, arXiv:2006.15704).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.benchmark.seeding import derive_seed


@dataclass(frozen=True)
class Share:
    """The share of rank ``rank`` of ``ranks``; all of everything by default."""

    rank: int = 0
    ranks: int = 1

    def of(self, batch: Tensor) -> tuple[Tensor, float]:
        """This rank's rows of a batch (n,), and the factor of their mean loss.

        With R ranks and n_r rows in rank r the factor is R n_r / n, so that the mean over ranks is the mean over the batch:
        (1 / R) sum_r (R n_r / n) mean_r = (1 / n) sum_i loss_i. A rank without rows takes the first one with factor 0, as all
        ranks have to take every step.
        """
        own = batch[self.rank :: self.ranks]
        return (own, self.ranks * len(own) / len(batch)) if len(own) else (batch[:1], 0.0)

    def seed(self, seed: int) -> int:
        """Seed of what the loss draws: that of one process in rank 0, another in each other one."""
        return derive_seed(seed, "rank", self.rank) if self.rank else seed

    def total(self, sums: Tensor, device: torch.device) -> Tensor:
        """Sums (k,) over ranks, equal in all of them; communicated on the device that the ranks train on."""
        if self.ranks == 1:
            return sums
        everywhere = sums.to(device)
        torch.distributed.all_reduce(everywhere)
        return everywhere.cpu()
