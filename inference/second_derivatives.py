"""Second derivatives of log_ratio in theta, by automatic differentiation, in chunks of events."""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator


def weighted_curvature(estimator: Estimator, x: Tensor, theta: Tensor, weight: Tensor, owner: Tensor, n: int) -> Tensor:
    """-sum_i w_i grad grad log_ratio(x_i, theta_i) over the events of each of ``n`` owners, shape (n, p, p).

    From x (r, d), theta (r, p), weight (r,) and owner (r,) in 0..n-1. Raises RuntimeError where the estimator is not
    twice differentiable. Kinks between its pieces (of a ReLU) are not seen.
    """
    p = theta.shape[-1]
    total = torch.zeros(n, p, p, dtype=torch.float64)
    size = estimator.rows_per_chunk
    for part in zip(x.split(size), theta.split(size), weight.split(size), owner.split(size), strict=True):
        _add(total, estimator, *part)
    return -0.5 * (total + total.transpose(-1, -2))


def _add(total: Tensor, estimator: Estimator, x: Tensor, theta: Tensor, weight: Tensor, owner: Tensor) -> None:
    theta = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        (score,) = torch.autograd.grad(estimator.relative_log_prob(x, theta).sum(), theta, create_graph=True)
        if not score.requires_grad:
            return
        for k, column in enumerate(score.unbind(-1)):
            if not column.requires_grad:
                continue
            (row,) = torch.autograd.grad(column.sum(), theta, retain_graph=True, allow_unused=True)
            if row is not None:
                total[:, k].index_add_(0, owner, weight[:, None] * row.double().cpu())
