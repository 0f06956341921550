"""Normalising flows under a context, whatever library they come from: the one footing on which they are compared.

A flow maps z (n, d) to noise of a standard normal under a context (n, c), and back:
log q(z|c) = log N(noise; 0, 1) + log |d noise / d z|. An adapter writes the two maps; density and samples are
the same for all. Conditioners use smooth activations (SiLU), because any roughness in the context is
multiplied by the number of events in a fit.

A layer that couples halves of z needs two columns at least; an autoregressive one works on a single column too.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.conditional_distribution import ConditionalDistribution, log_standard_normal

# Splines are the identity beyond that many standard deviations.
SPLINE_REACH = 5
# The least factor (and one over it the largest) by which an affine or monotonic layer stretches a column.
LEAST_SLOPE = 1e-3


class ConditionalFlow(ConditionalDistribution):
    """Abstract. An invertible map between z (n, d) and noise (n, d) under a context (n, c)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    @abstractmethod
    def to_noise(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of z (n, d), and log |d noise / d z| (n,)."""

    @abstractmethod
    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        """z (n, d) of noise (n, d), in float64."""

    def from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        """z (n, d) of noise (n, d), without a graph.

        Computed in float64, where the quadratic equation of a spline keeps its roots: in float32 its discriminant
        may round below zero, where zuko answers NaN and the others raise (nflows issue 87).
        """
        with torch.no_grad():
            return copy.deepcopy(self).double()._from_noise(noise.double(), context.double()).to(context)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """log density of z (n, d) under a context (n, c), shape (n,)."""
        noise, log_det = self.to_noise(z, context)
        return log_standard_normal(noise) + log_det

    def sample(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """One z per row of the context (n, c), shape (n, d); noise comes from ``generator``, never from the library."""
        noise = torch.randn(len(context), self.features, generator=generator, dtype=torch.float64, device=generator.device)
        return self.from_noise(noise.to(context.device), context)


def coupled_columns(features: int, transforms: int) -> list[Tensor]:
    """Columns that stay as they are in each coupling layer, masks (d,): every second one, in turns.

    Raises `SkipCell` for a single column, which leaves nothing to couple.
    """
    if features < 2:
        raise SkipCell("coupling layers need at least 2 columns; got 1: use an autoregressive flow (zuko_nsf, zuko_maf)")
    return [torch.arange(features) % 2 == turn % 2 for turn in range(transforms)]


def equal_width(library: str, hidden_features: Sequence[int]) -> int:
    """The width of hidden layers that a library wants equal; raises `InputError` if they are not."""
    if not hidden_features or len(set(hidden_features)) > 1:
        raise InputError(f"{library}: option hidden_features: expected widths that are equal, as in (64, 64); got {tuple(hidden_features)}")
    return hidden_features[0]
