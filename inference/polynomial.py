"""A ball in parameter space, points in it, and polynomials over it.

Shared by the local normalisation (quadratic) and the pseudo-experiment surface (cubic or quartic). The ball is
round in whitened coordinates z = T^-1 (theta - centre), T T^t = covariance, so its radius is in sigma.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from touchneedle.toys.base import ParameterSpace

_DRAWS = 2**15
_TRAINED_SIGMA = 3.0
POINTS_PER_COEFFICIENT = 1.6


@dataclass(frozen=True)
class Ball:
    """All theta with |z| <= radius, inside the bounds, and where estimators have seen training events.

    The latter is the central 99.7 % of each parameter's prior: beyond it a learned answer is anything (a posterior
    divided by a prior diverges at its edge), and one such point would spoil a polynomial everywhere.

    Attributes:
        centre: (p,).
        transform: lower triangular T (p, p) with T T^t = covariance.
        radius: in units of sigma.
        bounds: lowest and highest values (2, p).
        trained: lowest and highest values with training events (2, p).
    """

    centre: Tensor
    transform: Tensor
    radius: float
    bounds: Tensor
    trained: Tensor

    @classmethod
    def around(cls, centre: Tensor, covariance: Tensor, radius: float, parameters: ParameterSpace) -> Ball:
        """The ball of ``radius`` sigma around a point (p,), for a positive definite covariance (p, p)."""
        edge = torch.full((len(parameters),), _TRAINED_SIGMA, dtype=torch.float64)
        bounds = torch.stack([parameters.low, parameters.high])
        trained = torch.stack([parameters.from_normal(-edge), parameters.from_normal(edge)])
        return cls(centre, torch.linalg.cholesky(covariance), radius, bounds, trained)

    def whiten(self, theta: Tensor) -> Tensor:
        """z of theta (m, p): shape (m, p)."""
        return (theta - self.centre) @ self.inverse.T

    def distance(self, theta: Tensor) -> Tensor:
        """|z| of theta (m, p): shape (m,), in sigma."""
        return self.whiten(theta).norm(dim=-1)

    def points(self, count: int) -> Tensor:
        """The first ``count`` scrambled Sobol points of the ball (fewer if there are not so many)."""
        inside = self._sobol[_within(self._sobol, self.bounds) & _within(self._sobol, self.trained)]
        return inside[:count]

    def contains(self, theta: Tensor) -> Tensor:
        """Whether |z| <= radius at theta (m, p): shape (m,)."""
        return self.distance(theta) <= self.radius

    def holds(self, theta: Tensor) -> Tensor:
        """Whether a polynomial over the ball may be trusted at theta (m, p): shape (m,)."""
        return self.contains(theta) & _within(theta, self.trained)

    @property
    def share_in_bounds(self) -> float:
        """Share of the full ball that lies inside the bounds."""
        return float(_within(self._sobol, self.bounds).double().mean())

    @cached_property
    def inverse(self) -> Tensor:
        """T^-1 (p, p)."""
        return torch.linalg.inv(self.transform)

    @cached_property
    def _sobol(self) -> Tensor:
        dim = len(self.centre)
        cube = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0).draw(_DRAWS, dtype=torch.float64) * 2 - 1
        unit = cube[cube.norm(dim=-1) <= 1]
        return self.centre + self.radius * unit @ self.transform.T


def _within(theta: Tensor, limits: Tensor) -> Tensor:
    return ((theta >= limits[0]) & (theta <= limits[1])).all(-1)


@dataclass(frozen=True)
class Monomials:
    """All monomials of z / radius up to a total order, over a ball."""

    ball: Ball
    order: int

    def __call__(self, theta: Tensor) -> Tensor:
        """Monomials at theta (m, p): shape (m, C); differentiable."""
        z = self.ball.whiten(theta) / self.ball.radius
        powers = [torch.ones_like(z)]
        for _ in range(self.order):
            powers.append(powers[-1] * z)
        stacked = torch.stack(powers, -1)
        return torch.stack([self._product(stacked, exponents) for exponents in self._exponents], -1)

    def __len__(self) -> int:
        return math.comb(len(self.ball.centre) + self.order, self.order)

    def design(self, at_least: int) -> Tensor:
        """Points (M, p) at which to tabulate a function: M >= 1.6 per coefficient and ``at_least``."""
        return self.ball.points(max(at_least, math.ceil(POINTS_PER_COEFFICIENT * len(self))))

    def fit(self, points: Tensor, values: Tensor, weight: Tensor | None = None) -> Tensor:
        """Least-squares coefficients (E, C) of values (E, M) tabulated at points (M, p) with weights (M,)."""
        root = torch.ones(len(points), dtype=torch.float64) if weight is None else weight.sqrt()
        return (values * root) @ torch.linalg.pinv(self(points) * root[:, None]).T

    @cached_property
    def slopes(self) -> Tensor:
        """Matrices S (p, C, C): if c are the coefficients of f, S_k c are those of df/dtheta_k."""
        place = {exponents: i for i, exponents in enumerate(self._exponents)}
        lowered = torch.zeros(len(self.ball.centre), len(self), len(self), dtype=torch.float64)
        for i, exponents in enumerate(self._exponents):
            for k, power in enumerate(exponents):
                if power:
                    lower = (*exponents[:k], power - 1, *exponents[k + 1 :])
                    lowered[k, place[lower], i] = power
        return torch.einsum("jk,jab->kab", self.ball.inverse, lowered) / self.ball.radius

    @cached_property
    def _exponents(self) -> list[tuple[int, ...]]:
        every = itertools.product(range(self.order + 1), repeat=len(self.ball.centre))
        return sorted((e for e in every if sum(e) <= self.order), key=lambda e: (sum(e), e))

    def _product(self, powers: Tensor, exponents: tuple[int, ...]) -> Tensor:
        product = powers[..., 0, exponents[0]]
        for column, exponent in enumerate(exponents[1:], start=1):
            if exponent:
                product = product * powers[..., column, exponent]
        return product
