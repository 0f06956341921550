"""Tables over theta that many events share: one evaluation per distinct row of theta."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def entries_at_rows(table: Callable[[Tensor], Tensor], theta: Tensor, column: Tensor) -> Tensor:
    """``table(theta)[i, column[i]]``, shape (n,), from ``table`` (k, p) -> (k, cells), theta (n, p) and column (n,).

    Fits evaluate many events at few points: each distinct row is computed once, with its Jacobian where a gradient
    is asked for. Values and first derivatives are exact; second derivatives are not carried.
    """
    rows, code = _distinct_rows(theta.detach())
    if 2 * len(rows) > len(theta):
        return table(theta).gather(1, column[:, None]).squeeze(1)
    if not (torch.is_grad_enabled() and theta.requires_grad):
        return table(rows)[code, column]
    value, jacobian = _with_jacobian(table, rows)
    return value[code, column] + (jacobian[code, column] * (theta - theta.detach())).sum(-1)


def values_at_rows(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """``function(theta)``, shape (n,), from ``function`` (k, p) -> (k,) and theta (n, p): each distinct row is computed once.

    Values and first derivatives in theta are exact; nothing else is differentiated.
    """
    if torch.compiler.is_compiling():
        # An exported graph does not know which rows will be distinct.
        return function(theta)
    rows, code = _distinct_rows(theta.detach())
    if not (torch.is_grad_enabled() and theta.requires_grad):
        with torch.no_grad():
            return function(rows)[code].to(theta)
    rows = rows.requires_grad_()
    value = function(rows)
    (slope,) = torch.autograd.grad(value.sum(), rows)
    return value.detach()[code].to(theta) + (slope[code] * (theta - theta.detach())).sum(-1)


def _with_jacobian(table: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """The table (k, cells) and its derivatives (k, cells, p); each row of theta moves its own row alone."""
    rows = rows.requires_grad_()
    value = table(rows)
    each = torch.eye(value.shape[1], dtype=value.dtype, device=value.device)[:, None].expand(-1, len(rows), -1)
    (gradient,) = torch.autograd.grad(value, rows, each, is_grads_batched=True)
    return value.detach(), gradient.transpose(0, 1)


def _distinct_rows(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (k, p) of theta (n, p), and the index (n,) of each row among them."""
    code = torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
    for values in theta.T:
        # Column by column: torch.unique of whole rows is many times slower.
        distinct, index = torch.unique(values, return_inverse=True)
        code = torch.unique(code * len(distinct) + index, return_inverse=True)[1]
    rows = theta.new_empty(int(code.max()) + 1 if len(code) else 0, theta.shape[1])
    rows[code] = theta
    return rows, code
