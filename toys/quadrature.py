<<<<<<< HEAD
"""Normalisation integrals that depend on theta: fixed Gauss-Legendre nodes, evaluated once per distinct point."""
=======
"""Quadrature inside densities: fixed nodes, and integrals that depend on theta computed once per distinct theta."""
>>>>>>> t_amplitude

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

<<<<<<< HEAD
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
=======
ROWS_PER_CHUNK = 2**15


def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) on [0, 1], float64; exact for polynomials up to degree 2 n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


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
>>>>>>> t_amplitude
