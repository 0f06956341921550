"""A mixture of Gaussians whose parameters are functions of a context: smooth in the value.

Bishop 1994 (mixture density networks); full covariances through a triangular factor of the precision
(Papamakarios, Murray 2016, arXiv:1605.06376), so that the density needs no matrix inverse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from touchneedle.estimators.conditional_distribution import ConditionalDistribution
from touchneedle.estimators.networks import mlp

# Widths of a component stay within exp(+-8), so that it remains finite for any context.
_LARGEST_LOG = 8.0


class GaussianMixture(ConditionalDistribution):
    """q(z|c) = sum_k pi_k(c) N(z; mean_k(c), covariance_k(c)), for z (n, p) and context c (n, context)."""

    below: Tensor

    def __init__(self, features: int, context: int, components: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.features, self.components = features, components
        self.off_diagonal = features * (features - 1) // 2
        self.register_buffer("below", _below_diagonal(features), persistent=False)
        self.network = mlp(context, components * (1 + 2 * features + self.off_diagonal), hidden)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """log q of each pair, shape (n,)."""
        log_weight, mean, factor, log_det = self._gaussians(context)
        whitened = torch.einsum("nkij,nkj->nki", factor, z[:, None] - mean)
        return self._log_sum(log_weight + log_det, whitened)

    def log_prob_grid(self, z: Tensor, context: Tensor) -> Tensor:
        """log q of every z (m, p) under every context (n, context): shape (n, m)."""
        log_weight, mean, factor, log_det = self._gaussians(context)
        centre = torch.einsum("nkij,nkj->nki", factor, mean)
        whitened = torch.einsum("nkij,mj->nmki", factor, z) - centre[:, None]
        return self._log_sum((log_weight + log_det)[:, None], whitened)

    def sample(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """One z per context, shape (n, p)."""
        log_weight, mean, factor, _ = self._gaussians(context)
        n, device = len(context), generator.device
        uniform = torch.rand(n, 1, generator=generator, dtype=torch.float64, device=device).to(mean)
        noise = torch.randn(n, self.features, 1, generator=generator, dtype=torch.float64, device=device).to(mean)
        chosen = (log_weight.exp().cumsum(-1) < uniform).sum(-1).clamp_max(self.components - 1)
        rows = torch.arange(n, device=mean.device)
        shift = torch.linalg.solve_triangular(factor[rows, chosen], noise, upper=False)
        return mean[rows, chosen] + shift.squeeze(-1)

    def _gaussians(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log weights (n, k), means (n, k, p), lower triangular L (n, k, p, p) with precision L^T L, log det L (n, k)."""
        p = self.features
        output = self.network(context).unflatten(-1, (self.components, -1))
        logit, mean, raw, below = output.split((1, p, p, self.off_diagonal), -1)
        log_diagonal = _LARGEST_LOG * torch.tanh(raw / _LARGEST_LOG)
        factor = torch.diag_embed(log_diagonal.exp())
        if self.off_diagonal:
            factor = factor + (below @ self.below).reshape(factor.shape)
        return logit.squeeze(-1).log_softmax(-1), mean, factor, log_diagonal.sum(-1)

    def _log_sum(self, log_height: Tensor, whitened: Tensor) -> Tensor:
        log_normal = -0.5 * (whitened**2).sum(-1) - 0.5 * self.features * math.log(2 * math.pi)
        return (log_height + log_normal).logsumexp(-1)


def _below_diagonal(p: int) -> Tensor:
    """Matrix (p (p - 1) / 2, p * p) that places entries below the diagonal of a (p, p) matrix."""
    rows, columns = torch.tril_indices(p, p, -1)
    place = torch.zeros(len(rows), p * p)
    place[torch.arange(len(rows)), rows * p + columns] = 1
    return place
