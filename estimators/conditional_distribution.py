"""What every learned density under a context can do: flows of any library and mixtures alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from touchneedle.estimators.pairs import on_pairs


class ConditionalDistribution(nn.Module, ABC):
    """Abstract. q(z|c) for z (n, d) and context c (n, context)."""

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """log q of each pair, shape (n,)."""

    def log_prob_grid(self, z: Tensor, context: Tensor) -> Tensor:
        """log q of every z (m, d) under every context (n, c), shape (n, m)."""
        return on_pairs(lambda given, value: self.log_prob(value, given), context, z)

    @abstractmethod
    def sample(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """One z per row of the context, shape (n, d)."""


def log_standard_normal(noise: Tensor) -> Tensor:
    """log N(noise; 0, 1) of the columns together, shape (n,) from (n, d)."""
    return -0.5 * (noise**2 + math.log(2 * math.pi)).sum(-1)
