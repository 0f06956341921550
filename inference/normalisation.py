"""Local normalisation: c(theta) = log E[r(x|theta)] as a quadratic in theta around a fit.

A ratio whose expectation drifts with theta biases a fit of N events by N times the drift. Subtracting c
per event removes it. It has to be local: a polynomial over the whole prior does not help. Estimators that
are normalised by construction, or answer zero, are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator, in_float32
from touchneedle.inference.expansion import expand_normalisation
from touchneedle.inference.polynomial import Ball, Monomials

N_POINTS = 24
RADIUS = 4.0
_WEIGHT_WIDTH = 2.0
MOST_PARAMETERS = 10


class Basis(Protocol):
    """Functions of theta of which c is a linear combination."""

    def __call__(self, theta: Tensor) -> Tensor:
        """The functions at theta (m, p): shape (m, C)."""
        ...


@dataclass(frozen=True)
class LocalNormalisation:
    """c(theta), quadratic over a ball.

    Attributes:
        coefficients: (C,).
        residual: weighted root mean square of the least-squares residual of c.
    """

    monomials: Basis
    coefficients: Tensor
    residual: float

    @property
    def ball(self) -> Ball | None:
        """Where c is known; None for an expansion."""
        return self.monomials.ball if isinstance(self.monomials, Monomials) else None

    def __call__(self, theta: Tensor) -> Tensor:
        """c at theta (m, p): shape (m,); differentiable."""
        return self.monomials(theta) @ self.coefficients


def fit_local_normalisation(estimator: Estimator, ball: Ball) -> LocalNormalisation | None:
    """Quadratic through the estimator's ``log_normalisation`` over a ball; None if there is nothing to correct.

    Points count by exp(-|z|^2 / 8), since fits end within 2 sigma of the centre. Those at which it is not finite
    are left out; if too few remain, c is NaN, so that the fits are reported as failed. Of more than ten parameters c is
    expanded at the centre instead.
    """
    if estimator.normalised:
        return None
    if len(ball.centre) > MOST_PARAMETERS:
        expansion = expand_normalisation(in_float32(estimator), ball)
        return None if expansion is None else LocalNormalisation(*expansion)
    monomials = Monomials(ball, order=2)
    points = monomials.design(N_POINTS)
    with torch.no_grad():
        # A mean over events has no use for more digits.
        values = in_float32(estimator).log_normalisation(points).double().cpu()
    if not bool(values.any()):
        return None
    points, values = points[values.isfinite()], values[values.isfinite()]
    if len(points) < len(monomials):
        return LocalNormalisation(monomials, torch.full((len(monomials),), torch.nan, dtype=torch.float64), torch.nan)
    weight = torch.exp(-0.5 * (ball.distance(points) / _WEIGHT_WIDTH) ** 2)
    coefficients = monomials.fit(points, values[None], weight)[0]
    residual = (weight * (monomials(points) @ coefficients - values).square()).sum() / weight.sum()
    return LocalNormalisation(monomials, coefficients, float(residual.sqrt()))
