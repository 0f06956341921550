"""Batched maximiser: many small, independent problems (E of p parameters each) at once, inside bounds.

Projected Newton (Bertsekas 1982, SIAM J. Control Optim. 20, 221): a coordinate that sits on a bound and
wants to leave is frozen; the others take a Newton step, cut back until ln L rises (Armijo). The curvature
is exact where the objective offers it (`newton`), else it is updated by BFGS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""theta (e, p), rows (e,) of the problems -> value (e,), gradient (e, p)."""

Curvature = Callable[[Tensor, Tensor], Tensor]
"""theta (e, p), rows (e,) -> minus the Hessian (e, p, p)."""

EDM = 1e-8
# 0.005 sigma off at most, in half the steps, and within reach of float32.
EDM_NEAR = 1e-5
_EDM_STALLED = 1e-4
_ARMIJO = 1e-4
_MOST_HALVINGS = 12
_LONGEST_STEP = 4.0
_SMALLEST_EIGENVALUE = 0.02
_LARGEST_EIGENVALUE = 1e8
_DIFFERENCE_STEP = 0.05
_RIDGE = 1e-12


@dataclass(frozen=True)
class Maxima:
    """Where each problem ended: theta (E, p), value (E,), gradient (E, p), converged (E,)."""

    theta: Tensor
    value: Tensor
    gradient: Tensor
    converged: Tensor

    def at(self, rows: Tensor) -> Maxima:
        """Those of some problems (e,)."""
        return Maxima(self.theta[rows], self.value[rows], self.gradient[rows], self.converged[rows])


@dataclass(frozen=True)
class Region:
    """Bounds (p,) and which coordinates may move (p,)."""

    low: Tensor
    high: Tensor
    free: Tensor

    def clamp(self, theta: Tensor) -> Tensor:
        """The nearest theta inside the bounds."""
        return torch.minimum(torch.maximum(theta, self.low), self.high)

    def movable(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Mask (e, p) of the coordinates that are free and not pushed against a bound."""
        blocked = ((theta <= self.low) & (gradient < 0)) | ((theta >= self.high) & (gradient > 0))
        return self.free & ~blocked


def maximise(
    objective: Objective,
    start: Tensor,
    region: Region,
    curvature: Tensor,
    *,
    newton: Curvature | None = None,
    iterations: int = 60,
    edm: float = EDM,
) -> Maxima:
    """Maximise E problems from start (E, p).

    Args:
        objective: value and gradient of the chosen problems.
        start: (E, p); moved inside the bounds.
        region: bounds, and which coordinates may move.
        curvature: minus the Hessian to begin with, (p, p) or (E, p, p), positive definite; sets the scale.
        newton: exact curvature, recomputed at every step; without it BFGS.
        iterations: steps at most.
        edm: estimated distance to the maximum in ln L below which a problem has converged; 1e-8 is 1.4e-4 sigma.

    A problem has also converged where no further ascent is possible and that distance is below 1e-4.
    """
    search = _Search(objective, region.clamp(start), region, curvature.expand(len(start), -1, -1).clone(), newton, edm)
    for _ in range(iterations):
        if not bool(search.running.any()):
            break
        search.advance()
    return Maxima(search.theta, search.value, search.gradient, search.converged)


class _Search:
    """State of a batched search."""

    def __init__(
        self, objective: Objective, start: Tensor, region: Region, curvature: Tensor, newton: Curvature | None, edm: float
    ) -> None:
        self.objective, self.region, self.newton, self.edm = objective, region, newton, edm
        self.theta = start.clone()
        self.value, self.gradient = objective(self.theta, torch.arange(len(start)))
        self.curvature = curvature
        self.scale = curvature.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
        self.converged = torch.zeros(len(start), dtype=torch.bool)
        self.running = self.value.isfinite() & self.gradient.isfinite().all(-1)

    def advance(self) -> None:
        """One step of every running problem."""
        rows = self.running.nonzero().flatten()
        if self.newton is not None:
            self.curvature[rows] = positive_part(self.newton(self.theta[rows], rows), self.scale[rows])
        step, edm = self._newton_step(rows)
        done = edm < self.edm
        self._stop(rows[done], edm[done])
        rows, step, edm = rows[~done], step[~done], edm[~done]
        stalled = self._line_search(rows, step)
        self._stop(rows[stalled], edm[stalled])

    def _newton_step(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Step (e, p) and estimated distance to the maximum in ln L (e,); long steps are cut to 4 sigma."""
        movable = self.region.movable(self.theta[rows], self.gradient[rows])
        gradient = self.gradient[rows] * movable
        both = movable[:, :, None] & movable[:, None, :]
        matrix = torch.where(both, self.curvature[rows], 0.0) + torch.diag_embed((~movable).double())
        scale = torch.where(movable, self.scale[rows], 1.0)
        scaled = matrix * scale[:, :, None] * scale[:, None, :] + _RIDGE * torch.eye(matrix.shape[-1], dtype=matrix.dtype)
        step = scale * torch.linalg.solve(scaled, scale * gradient)
        edm = 0.5 * (gradient * step).sum(-1)
        shrink = (_LONGEST_STEP / (2 * edm.clamp_min(1e-300)).sqrt()).clamp_max(1.0)
        return step * shrink[:, None], edm

    def _line_search(self, rows: Tensor, step: Tensor) -> Tensor:
        """Take the step, halved until ln L rises enough; returns the mask of problems that found no ascent."""
        pending = torch.arange(len(rows))
        length = 1.0
        for _ in range(_MOST_HALVINGS):
            if not len(pending):
                break
            chosen = rows[pending]
            trial = self.region.clamp(self.theta[chosen] + length * step[pending])
            value, gradient = self.objective(trial, chosen)
            accepted = self._rises(chosen, trial, value) & gradient.isfinite().all(-1)
            self._move(chosen[accepted], trial[accepted], value[accepted], gradient[accepted])
            pending = pending[~accepted]
            length *= 0.5
        stalled = torch.zeros(len(rows), dtype=torch.bool)
        stalled[pending] = True
        return stalled

    def _rises(self, rows: Tensor, trial: Tensor, value: Tensor) -> Tensor:
        wanted = _ARMIJO * (self.gradient[rows] * (trial - self.theta[rows])).sum(-1)
        return value.isfinite() & (value >= self.value[rows] + wanted) & (trial != self.theta[rows]).any(-1)

    def _move(self, rows: Tensor, theta: Tensor, value: Tensor, gradient: Tensor) -> None:
        if self.newton is None:
            moved, bent = theta - self.theta[rows], self.gradient[rows] - gradient
            self.curvature[rows] = bfgs_update(self.curvature[rows], moved, bent, self.scale[rows])
        self.theta[rows], self.value[rows], self.gradient[rows] = theta, value, gradient

    def _stop(self, rows: Tensor, edm: Tensor) -> None:
        self.running[rows] = False
        self.converged[rows] = edm < _EDM_STALLED


def bfgs_update(curvature: Tensor, step: Tensor, bent: Tensor, scale: Tensor) -> Tensor:
    """BFGS update of curvatures (e, p, p) by steps (e, p) and changes of minus the gradient (e, p).

    Skipped where the function did not bend downwards along the step.
    """
    along = (step * bent).sum(-1)
    image = (curvature @ step[..., None]).squeeze(-1)
    energy = (step * image).sum(-1)
    bends = along > 1e-8 * (step / scale).norm(dim=-1) * (bent * scale).norm(dim=-1)
    safe_along, safe_energy = torch.where(bends, along, 1.0), torch.where(energy > 0, energy, 1.0)
    update = bent[:, :, None] * bent[:, None, :] / safe_along[:, None, None]
    update = update - image[:, :, None] * image[:, None, :] / safe_energy[:, None, None]
    return torch.where((bends & (energy > 0))[:, None, None], curvature + update, curvature)


def positive_part(curvature: Tensor, scale: Tensor) -> Tensor:
    """Curvatures (e, p, p) with eigenvalues replaced by their magnitude, at least 0.02, in units of scale (e, p)."""
    both = scale[:, :, None] * scale[:, None, :]
    values, vectors = torch.linalg.eigh((curvature * both).nan_to_num().clamp(-_LARGEST_EIGENVALUE, _LARGEST_EIGENVALUE))
    values = values.abs().clamp_min(_SMALLEST_EIGENVALUE)
    return (vectors * values[:, None, :]) @ vectors.transpose(-1, -2) / both


def difference_curvature(objective: Objective, theta: Tensor, rows: Tensor, scale: Tensor, region: Region) -> Tensor:
    """Minus the Hessian (e, p, p) by differences of gradients over +-0.05 scale (p,), kept inside the bounds."""
    columns = []
    for column in range(theta.shape[-1]):
        offset = torch.zeros_like(theta)
        offset[:, column] = _DIFFERENCE_STEP * scale[..., column]
        up, down = region.clamp(theta + offset), region.clamp(theta - offset)
        change = objective(down, rows)[1] - objective(up, rows)[1]
        columns.append(change / (up - down)[:, column, None])
    matrix = torch.stack(columns, -1)
    return 0.5 * (matrix + matrix.transpose(-1, -2))


def covariance_of(curvature: Tensor) -> Tensor:
    """Inverse of curvatures (..., p, p); NaN where they are not positive definite."""
    scale = curvature.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    both = scale[..., :, None] * scale[..., None, :]
    factor, failed = torch.linalg.cholesky_ex((curvature * both).nan_to_num(nan=-1.0, posinf=-1.0, neginf=-1.0))
    good = (failed == 0)[..., None, None]
    identity = torch.eye(curvature.shape[-1], dtype=curvature.dtype)
    inverse = torch.cholesky_inverse(torch.where(good, factor, identity)) * both
    return torch.where(good, inverse, torch.nan)


def sigma_of(covariance: Tensor) -> Tensor:
    """Standard errors (..., p) of covariances (..., p, p)."""
    return covariance.diagonal(dim1=-2, dim2=-1).sqrt()
