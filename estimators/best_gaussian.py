"""Control: the best Gaussian density, linear in theta: x|theta ~ N(A + B theta, Sigma).

Closed form, by weighted least squares. Exact on a Gaussian location model, and what a learned density
must beat everywhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.estimators.standardise import mean_weight
from touchneedle.toys.base import EventSource, ToySpec, collect


@dataclass
class BestGaussianConfig:
    """Options of `BestGaussian`.

    Attributes:
        ridge: relative size of what is added to the diagonal of Sigma, for constant features.
    """

    ridge: float = 1e-6


class BestGaussian(Estimator):
    """Weighted linear regression of x on theta with the covariance of its residuals."""

    Config = BestGaussianConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint", "pairs"})
    normalised = True

    offset: Tensor
    slope: Tensor
    factor: Tensor

    def __init__(self, spec: ToySpec, config: BestGaussianConfig) -> None:
        super().__init__(spec, config)
        self.register_buffer("offset", torch.zeros(spec.x_dim))
        self.register_buffer("slope", torch.zeros(spec.x_dim, spec.theta_dim))
        self.register_buffer("factor", torch.eye(spec.x_dim))

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        weight = (events.weight.double() / mean_weight(events.weight) / len(events))[:, None]
        x, theta = events.x.double(), events.theta.double()
        mean_x, mean_theta = (weight * x).sum(0), (weight * theta).sum(0)
        x, theta = x - mean_x, theta - mean_theta
        slope = (torch.linalg.pinv(theta.T @ (weight * theta), hermitian=True) @ (theta.T @ (weight * x))).T
        residual = x - theta @ slope.T
        self.slope = slope.to(self.slope)
        self.offset = (mean_x - slope @ mean_theta).to(self.offset)
        self.factor = self._cholesky(residual.T @ (weight * residual)).to(self.factor)

    def _cholesky(self, covariance: Tensor) -> Tensor:
        variance = covariance.diagonal()
        scale = variance.where(variance > 0, torch.ones_like(variance))
        return torch.linalg.cholesky(covariance + torch.diag(self.config.ridge * scale))

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_prob(x, theta) - self._log_prob(x, self.nominal.expand_as(theta))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        residual = (x - self.offset - theta @ self.slope.T).T
        whitened = torch.linalg.solve_triangular(self.factor, residual, upper=False)
        log_det = self.factor.diagonal().log().sum()
        return -0.5 * (whitened**2).sum(0) - log_det - 0.5 * self.spec.x_dim * math.log(2 * math.pi)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(theta), self.spec.x_dim, generator=generator, dtype=torch.float64, device=generator.device)
        return self.offset + theta @ self.slope.T + noise.to(theta) @ self.factor.T
