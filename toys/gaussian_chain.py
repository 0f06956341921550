"""Correlated Gaussian noise, and the orthonormal directions along which toys shift it.

The noise is a stationary autoregressive chain: unit variances, correlation rho^|i - j| between
features i and j. Its density is a product of conditional normals, so that nothing is inverted in
any number of dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError


def chain_noise(n: int, dim: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Draws of the chain, shape (n, dim): e_0 = z_0, e_i = rho e_(i-1) + sqrt(1 - rho^2) z_i."""
    lag = torch.arange(dim).unsqueeze(-1) - torch.arange(dim)
    triangle = (torch.tensor(correlation, dtype=torch.float64) ** lag.clamp(min=0)).tril()
    triangle[:, 1:] *= math.sqrt(1 - correlation**2)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ triangle.T


def chain_log_prob(residual: Tensor, correlation: float) -> Tensor:
    """Log density of the chain at ``residual`` (n, dim), shape (n,)."""
    white = chain_whiten(residual, correlation)
    return -0.5 * white.square().sum(-1) - chain_log_norm(residual.shape[1], correlation)


def chain_whiten(residual: Tensor, correlation: float) -> Tensor:
    """Independent unit normals (n, dim) from draws of the chain: z_i = (e_i - rho e_(i-1)) / sqrt(1 - rho^2)."""
    steps = residual[:, 1:] - correlation * residual[:, :-1]
    return torch.cat([residual[:, :1], steps / math.sqrt(1 - correlation**2)], -1)


def chain_log_norm(dim: int, correlation: float) -> float:
    """Minus the log density of the chain at its mode: half the log determinant of 2 pi times its covariance."""
    return 0.5 * dim * math.log(2 * math.pi) + 0.5 * (dim - 1) * math.log1p(-(correlation**2))


def waves(dim: int, count: int) -> Tensor:
    """The first ``count`` orthonormal cosine vectors of R^dim, shape (count, dim): w_j(i) ~ cos(pi j (i + 1/2) / dim)."""
    order, position = torch.arange(count, dtype=torch.float64), torch.arange(dim, dtype=torch.float64) + 0.5
    vectors = torch.cos(math.pi * order.unsqueeze(-1) * position / dim)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def check_correlation(owner: str, correlation: float) -> None:
    """Raise `InputError` unless the chain's correlation lies between -1 and 1."""
    if not -1 < correlation < 1:
        raise InputError(f"toy {owner}: option correlation: expected a value between -1 and 1; got {correlation:g}")
