"""Local normalisation of many parameters: c(theta) by its gradient and its curvature at one point.

A polynomial through points of a ball (`touchneedle.inference.normalisation`) needs more points than there are
coefficients, (p + 1)(p + 2) / 2, and a ball that random points hit: that ends at about ten parameters. Beyond, the same
quadratic comes from gradients of ``log_normalisation`` at the centre and one sigma beside it along each parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.polynomial import Ball


@dataclass(frozen=True)
class Products:
    """1, the distances d = theta - centre, and their products d_i d_j (i <= j)."""

    centre: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        """The products at theta (m, p): shape (m, C); differentiable."""
        distance = theta - self.centre
        first, second = torch.triu_indices(len(self.centre), len(self.centre))
        return torch.cat([torch.ones_like(distance[:, :1]), distance, distance[:, first] * distance[:, second]], -1)

    def of_expansion(self, value: Tensor, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Coefficients (C,) of value + gradient . d + d . curvature . d / 2."""
        first, second = torch.triu_indices(len(self.centre), len(self.centre))
        share = torch.where(first == second, 0.5, 1.0).double()
        return torch.cat([value[None], gradient, share * curvature[first, second]])


def expand_normalisation(estimator: Estimator, ball: Ball) -> tuple[Products, Tensor, float] | None:
    """Products, their coefficients, and the root mean square residual one sigma beside the centre; None if c is 0.

    Raises `InputError` if ``log_normalisation`` has no gradient.
    """
    step = ball.transform.square().sum(-1).sqrt()
    up, down = (torch.minimum(torch.maximum(ball.centre + sign * torch.diag(step), ball.bounds[0]), ball.bounds[1]) for sign in (1, -1))
    points = torch.cat([ball.centre[None], up, down])
    values, gradients = _values_and_gradients(estimator, points)
    if not bool(values.any()):
        return None
    p = len(step)
    curvature = (gradients[1 : p + 1] - gradients[p + 1 :]) / (up - down).diagonal()[:, None]
    products = Products(ball.centre)
    coefficients = products.of_expansion(values[0], gradients[0], 0.5 * (curvature + curvature.T))
    residual = (products(points) @ coefficients - values).square().mean().sqrt()
    return products, coefficients, float(residual)


def _values_and_gradients(estimator: Estimator, points: Tensor) -> tuple[Tensor, Tensor]:
    """c (m,) and its gradient (m, p) at points (m, p)."""
    points = points.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = estimator.log_normalisation(points).double().cpu()
        if not values.requires_grad:
            if bool(values.any()):
                raise InputError(f"{type(estimator).__name__}: expected a log_normalisation with a gradient, for so many parameters")
            return values, torch.zeros_like(points)
        (gradients,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), gradients.double().cpu()
