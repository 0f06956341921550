"""Residual autoregressive affine layers: a deformation of x that vanishes where its parameters do.

Factorizable normalizing flows, arXiv:2602.13184 (2026): z'_j = z_j exp(s_j) + t_j, where s_j and t_j are
sums over terms of network outputs in (z_<j, context) times powers of the parameters that move.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from touchneedle.estimators.masked_networks import MaskedNetworks

# Beyond that many standard deviations the networks see a constant, so that s stays bounded far from the data.
_REACH = 5.0


class ResidualLayer(nn.Module):
    """One layer; a term is a network, its powers are the factors that multiply the network's outputs.

    Args:
        order: the features from first to last in the autoregression.
        context: columns of the context.
        terms: (number of terms, powers of each) per group of terms.
    """

    def __init__(self, order: Sequence[int], context: int, terms: Sequence[tuple[int, int]], hidden: Sequence[int]) -> None:
        super().__init__()
        self.order = tuple(order)
        self.groups = nn.ModuleList(MaskedNetworks(count, order, context, 2 * powers, hidden) for count, powers in terms)

    def forward(self, z: Tensor, context: Tensor, powers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """z' (n, d) and log |dz'/dz| (n,); ``powers`` holds (n, terms, powers) for each group."""
        log_scale, shift = self._affine(z, context, powers)
        return z * log_scale.exp() + shift, log_scale.sum(-1)

    def inverse(self, moved: Tensor, context: Tensor, powers: Sequence[Tensor]) -> Tensor:
        """z of z' (n, d), one feature after the other."""
        z = torch.zeros_like(moved)
        for column in self.order:
            log_scale, shift = self._affine(z, context, powers)
            z = z.clone()
            z[:, column] = (moved[:, column] - shift[:, column]) * (-log_scale[:, column]).exp()
        return z

    def _affine(self, z: Tensor, context: Tensor, powers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """s and t, each (n, d)."""
        inputs = torch.cat([z.clamp(-_REACH, _REACH), context], -1)
        total = z.new_zeros(2, *z.shape)
        for networks, factors in zip(self.groups, powers, strict=True):
            which = acting(factors)
            if which:
                outputs = networks(inputs, which).unflatten(-1, (2, -1))
                total = total + torch.einsum("kndop,nkp->ond", outputs, factors[:, which])
        return total[0], total[1]


def acting(factors: Tensor) -> list[int]:
    """Terms whose powers (n, terms, powers) are not all 0, and all of them where a gradient or a graph is asked for.

    The others add exactly nothing, and need not be evaluated.
    """
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and factors.requires_grad):
        return list(range(factors.shape[1]))
    return (factors != 0).any(-1).any(0).nonzero().flatten().tolist()
