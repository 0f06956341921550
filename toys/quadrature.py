"""Quadrature inside densities: fixed nodes, and integrals that depend on theta computed once per distinct theta."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

ROWS_PER_CHUNK = 2**15


def gauss_legendre(n: int, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) on [low, high], float64; exact for polynomials up to degree 2 n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = 0.5 * (high - low)
    return torch.from_numpy(low + half * (nodes + 1)), torch.from_numpy(half * weights)


def once_per_row(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """``function(theta)``, (n, p) -> (n,), evaluated once per distinct row and differentiable twice.

    Fits and tests evaluate many events at few points; each row keeps its own gradient and Hessian. Chunks of rows
    bound the memory, as no graph through the nodes is kept.
    """
    rows, code = distinct_rows(theta.detach())
    if not (torch.is_grad_enabled() and theta.requires_grad):
        return torch.cat([function(part) for part in rows.split(ROWS_PER_CHUNK)])[code]
    parts = [_derivatives(function, part) for part in rows.split(ROWS_PER_CHUNK)]
    value, gradient, hessian = (torch.cat(columns) for columns in zip(*parts, strict=True))
    # Zero in value: it carries the derivatives of each row of theta.
    step = theta - theta.detach()
    curvature = torch.einsum("ni,nij,nj->n", step, hessian[code], step)
    return value[code] + (gradient[code] * step).sum(-1) + 0.5 * curvature


def distinct_rows(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (k, p) of theta (n, p), and the index (n,) of each row among them."""
    code = torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
    for column in theta.T:
        # Column by column: torch.unique of whole rows is thirty times slower.
        values, index = torch.unique(column, return_inverse=True)
        code = torch.unique(code * len(values) + index, return_inverse=True)[1]
    some = torch.empty(int(code.max()) + 1 if len(code) else 0, dtype=torch.int64, device=theta.device)
    some[code] = torch.arange(len(theta), device=theta.device)
    return theta[some], code


def _derivatives(function: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values (k,), gradients (k, p) and Hessians (k, p, p)."""
    rows = rows.clone().requires_grad_()
    value = function(rows)
    (gradient,) = torch.autograd.grad(value.sum(), rows, create_graph=True)
    columns = [torch.autograd.grad(column.sum(), rows, retain_graph=True)[0] for column in gradient.T]
    return value.detach(), gradient.detach(), torch.stack(columns, -1)
