"""Local normalisation: c(theta) = log E[r(x|theta)] as a quadratic in theta around a fit.

A ratio whose expectation drifts with theta biases a fit of N events by N times the drift. Subtracting c
per event removes it. It has to be local: a polynomial over the whole prior does not help. Estimators that
are normalised by construction, or answer zero, are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.polynomial import Ball, Monomials

N_POINTS = 24
RADIUS = 4.0


@dataclass(frozen=True)
class LocalNormalisation:
    """c(theta), quadratic over a ball.

    Attributes:
        coefficients: (C,).
        residual: root mean square of the least-squares residual of c.
    """

    monomials: Monomials
    coefficients: Tensor
    residual: float

    def __call__(self, theta: Tensor) -> Tensor:
        """c at theta (m, p): shape (m,); differentiable."""
        return self.monomials(theta) @ self.coefficients


def fit_local_normalisation(estimator: Estimator, ball: Ball) -> LocalNormalisation | None:
    """Quadratic through the estimator's ``log_normalisation`` over a ball; None if there is nothing to correct.

    A log_normalisation that is not finite makes c NaN, so that the fits are reported as failed.
    """
    if estimator.normalised:
        return None
    monomials = Monomials(ball, order=2)
    points = monomials.design(N_POINTS)
    with torch.no_grad():
        values = estimator.log_normalisation(points).double().cpu()
    if not bool(values.any()):
        return None
    if not bool(values.isfinite().all()) or len(points) < len(monomials):
        return LocalNormalisation(monomials, torch.full((len(monomials),), torch.nan, dtype=torch.float64), torch.nan)
    coefficients = monomials.fit(points, values[None])[0]
    residual = (monomials(points) @ coefficients - values).square().mean().sqrt()
    return LocalNormalisation(monomials, coefficients, float(residual))
