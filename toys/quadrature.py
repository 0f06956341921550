"""Normalisation integrals that depend on theta: fixed Gauss-Legendre nodes, evaluated once per distinct point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

CHUNK = 16_384


def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes on (-1, 1) and weights (n,), float64: exact for polynomials up to degree 2 n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def at_distinct_rows(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """``function`` (m, p) -> (m,) at theta (n, p), evaluated once for each distinct row, in chunks: shape (n,).

    Values and first derivatives are exact; second derivatives are not carried.
    """
    distinct, where = _distinct_rows(theta.detach())
    parts = [_value_and_gradient(function, part, theta.requires_grad) for part in distinct.split(CHUNK)]
    value = torch.cat([value for value, _ in parts])[where]
    if not theta.requires_grad:
        return value
    gradient = torch.cat([gradient for _, gradient in parts])[where]
    return value + (gradient * (theta - theta.detach())).sum(-1)


def _distinct_rows(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (k, p) and the place of each row among them (n,), column by column, which is faster than rows at once."""
    where = torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
    if bool((theta == theta[:1]).all()):
        return theta[:1], where
    for column in theta.T:
        values, place = column.unique(return_inverse=True)
        where = (where * len(values) + place).unique(return_inverse=True)[1]
    rows = torch.arange(len(theta), device=theta.device)
    one_of_each = torch.empty(int(where.max()) + 1, dtype=torch.int64, device=theta.device).scatter_(0, where, rows)
    return theta[one_of_each], where


def _value_and_gradient(function: Callable[[Tensor], Tensor], theta: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    if not gradient:
        return function(theta), theta
    theta = theta.clone().requires_grad_()
    with torch.enable_grad():
        value = function(theta)
        (slope,) = torch.autograd.grad(value.sum(), theta)
    return value.detach(), slope
