"""Minus the Hessian of ln L at a maximum, and Newton's last steps to it.

Exact, by automatic differentiation, where the objective offers it and central differences of the gradient confirm it
along one direction (a network of ReLU has a Hessian that its second derivatives do not show); else by these differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from touchneedle.inference.fittable import ROW, Objective
from touchneedle.inference.maximise import Region, covariance_of, difference_curvature, sigma_of

Method = Literal["exact", "differences"]

_CONFIRMED = 0.05
_CHECK_STEP = 0.05
# Steps of differences, 0.05 sigma where ln L is smooth, cross few kinks: the slope of a rugged one is that over 0.5 sigma.
_OVER_KINKS = 10.0
_MOST_STEPS = 6
_AT_BOUND = 1e-3
_ARRIVED = 1e-16
_MOVED = 1e-5


@dataclass(frozen=True)
class Peak:
    """A maximum of ln L with its curvature.

    Attributes:
        theta: (p,).
        value: ln L.
        curvature: minus the Hessian (p, p).
        covariance: its inverse (p, p). Parameters held by a bound are NaN if only the others have one; all are if
            nothing has.
        method: how the curvature was found.
        edm: estimated distance to the maximum in ln L; NaN without positive definite curvature.
        blocked: parameters that the slope of ln L holds at a limit (p,).
        calls: evaluations of ln L and its gradient.
    """

    theta: Tensor
    value: float
    curvature: Tensor
    covariance: Tensor
    method: Method
    edm: float
    blocked: Tensor
    calls: int

    @property
    def curved(self) -> bool:
        """Whether ln L falls in every direction that is free."""
        return bool(sigma_of(self.covariance)[~self.blocked].isfinite().all())


def find_peak(objective: Objective, theta: Tensor, sigma: Tensor, region: Region) -> Peak:
    """Newton's method from a point (p,) near a maximum, where rough standard errors are ``sigma`` (p,).

    The Hessian is found at the start, and again at the end if that is elsewhere; in between it is kept.
    """
    climb = _Climb(objective, theta, sigma, region)
    climb.lean()
    for _ in range(_MOST_STEPS):
        if not climb.advance():
            break
    if climb.far_from_start:
        climb.bend()
    return climb.peak()


def hessian(objective: Objective, theta: Tensor, sigma: Tensor, region: Region) -> tuple[Tensor, Method]:
    """Minus the Hessian (p, p) at theta (p,), and how it was found; ``sigma`` (p,) sets the steps of differences."""
    wide = 1.0
    if (exact := getattr(objective, "curvature", None)) is not None:
        try:
            matrix = exact(theta[None], ROW)[0]
            if _confirmed(objective, theta, matrix, region):
                return matrix, "exact"
            wide = _OVER_KINKS
        except RuntimeError:
            # A method without second derivatives, for instance a custom backward pass.
            pass
    rough = difference_curvature(objective, theta[None], ROW, sigma, region)[0]
    better = sigma_of(covariance_of(rough))
    scale = wide * torch.where(better.isfinite(), better, sigma)
    return difference_curvature(objective, theta[None], ROW, scale, region)[0], "differences"


def _confirmed(objective: Objective, theta: Tensor, matrix: Tensor, region: Region) -> bool:
    """Whether differences of the gradient along one direction, 0.05 sigma long, are those of the matrix within 5 %."""
    covariance = covariance_of(matrix)
    if not bool(covariance.isfinite().all()):
        return False
    signs = torch.where(torch.arange(len(theta)) % 2 == 0, 1.0, -1.0).double()
    move = torch.linalg.cholesky(covariance) @ signs * (_CHECK_STEP / len(theta) ** 0.5)
    up, down = region.clamp(theta + move), region.clamp(theta - move)
    wanted = matrix @ (up - down)
    error = objective(down[None], ROW)[1][0] - objective(up[None], ROW)[1][0] - wanted
    return bool(error @ covariance @ error <= _CONFIRMED**2 * (wanted @ covariance @ wanted))


class _Climb:
    """Newton's steps inside a region, with a Hessian that is kept."""

    def __init__(self, objective: Objective, theta: Tensor, sigma: Tensor, region: Region) -> None:
        self.objective, self.region, self.sigma = objective, region, sigma
        self.calls = 0
        self.theta = region.clamp(theta)
        self.value, self.gradient = self._evaluate(self.theta)
        self.bend()

    def bend(self) -> None:
        """The Hessian here."""
        self.method: Method
        self.matrix, self.method = hessian(self.objective, self.theta, self.sigma, self.region)
        self.bent_at = self.theta
        found = sigma_of(covariance_of(self.matrix))
        self.sigma = torch.where(found.isfinite(), found, self.sigma)

    @property
    def far_from_start(self) -> bool:
        """Whether the Hessian is that of another place."""
        return bool(((self.theta - self.bent_at).abs() > _MOVED * self.sigma).any())

    @property
    def blocked(self) -> Tensor:
        """Parameters at a limit beyond which ln L rises (p,)."""
        near = _AT_BOUND * self.sigma
        low = (self.theta <= self.region.low + near) & (self.gradient < 0)
        return low | ((self.theta >= self.region.high - near) & (self.gradient > 0))

    def lean(self) -> None:
        """Put what is held by a limit on it (a search inside limits never quite arrives), so that the others follow."""
        trial = torch.where(self.blocked, _nearest(self.theta, self.region), self.theta)
        value, gradient = self._evaluate(trial)
        if value >= self.value:
            self.theta, self.value, self.gradient = trial, value, gradient

    def advance(self) -> bool:
        """One step; False where it does not lead closer."""
        step, edm = self._step(self.theta, self.gradient, self.blocked)
        if not edm > _ARRIVED:
            return False
        trial = self.region.clamp(self.theta + step)
        value, gradient = self._evaluate(trial)
        before = self.theta, self.value, self.gradient
        self.theta, self.value, self.gradient = trial, value, gradient
        if not value >= before[1] - 1e-9 * (1 + abs(before[1])) or not self._step(trial, gradient, self.blocked)[1] < edm:
            self.theta, self.value, self.gradient = before
            return False
        return True

    def peak(self) -> Peak:
        """What was found."""
        blocked = self.blocked
        covariance = covariance_of(self.matrix)
        if not bool(covariance.isfinite().all()) and bool(blocked.any()):
            covariance = _free_covariance(self.matrix, ~blocked)
        _, edm = self._step(self.theta, self.gradient, blocked)
        return Peak(self.theta, self.value, self.matrix, covariance, self.method, edm, blocked, self.calls)

    def _step(self, theta: Tensor, gradient: Tensor, blocked: Tensor) -> tuple[Tensor, float]:
        """Newton's step (p,) of what is not blocked, and the rise of ln L that it promises (NaN where there is none)."""
        covariance = _free_covariance(self.matrix, ~blocked).nan_to_num() if bool(blocked.any()) else covariance_of(self.matrix)
        step = covariance @ gradient
        return step, float(0.5 * gradient @ step)

    def _evaluate(self, theta: Tensor) -> tuple[float, Tensor]:
        self.calls += 1
        value, gradient = self.objective(theta[None], ROW)
        return float(value), gradient[0]


def _nearest(theta: Tensor, region: Region) -> Tensor:
    return torch.where((theta - region.low).abs() < (region.high - theta).abs(), region.low, region.high)


def _free_covariance(matrix: Tensor, free: Tensor) -> Tensor:
    """Covariance of the free parameters given the others, NaN elsewhere (p, p)."""
    covariance = torch.full_like(matrix, torch.nan)
    chosen = free.nonzero().flatten()
    covariance[chosen[:, None], chosen] = covariance_of(matrix[chosen[:, None], chosen])
    return covariance
