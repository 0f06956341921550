"""Constraints: the auxiliary likelihoods of nuisances, added in fits alone.

A nuisance without one is free. Auxiliary measurements t have the units of their nuisance, and the nominal one is
its nominal value, whatever the kind. Every ``log_prob`` is 0 at its maximum, value = t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from touchneedle.conf.errors import InputError


@dataclass(frozen=True)
class GaussianConstraint:
    """Auxiliary measurement t ~ N(nuisance, sigma)."""

    sigma: float
    kind: Literal["gaussian"] = "gaussian"

    def __post_init__(self) -> None:
        _check("gaussian constraint: sigma", self.sigma, 0.0)

    def log_prob(self, measured: Tensor, value: Tensor) -> Tensor:
        """Log likelihood of the nuisance ``value`` given the auxiliary measurement (up to a constant)."""
        return -0.5 * ((measured - value) / self.sigma) ** 2

    def sample(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """Redraw the auxiliary measurement around the true ``value``."""
        return value + self.sigma * _normal(value, generator)

    def standard_error(self, value: float) -> float:
        """Standard deviation of the auxiliary measurement at the true ``value``, which is also 1 / sqrt(Fisher information)."""
        return self.sigma

    def interval(self, value: float) -> tuple[float, float]:
        """``value`` less and plus one sigma."""
        return (value - self.sigma, value + self.sigma)


@dataclass(frozen=True)
class LogNormalConstraint:
    """Auxiliary measurement log t ~ N(log nuisance, log kappa): a factor known to a factor kappa, as lnN of Combine (arXiv:2404.06614).

    The nuisance is positive: at 0 and below ``log_prob`` is -inf.
    """

    kappa: float
    kind: Literal["log_normal"] = "log_normal"

    def __post_init__(self) -> None:
        _check("log_normal constraint: kappa", self.kappa, 1.0)

    def log_prob(self, measured: Tensor, value: Tensor) -> Tensor:
        """Log likelihood of the nuisance ``value`` given the auxiliary measurement (up to a constant)."""
        positive = torch.where(value > 0, value, torch.ones_like(value))
        pull = (measured.log() - positive.log()) / math.log(self.kappa)
        return torch.where(value > 0, -0.5 * pull**2, -math.inf)

    def sample(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """Redraw the auxiliary measurement around the true ``value``."""
        return value * self.kappa ** _normal(value, generator)

    def standard_error(self, value: float) -> float:
        """1 / sqrt(Fisher information) at the true ``value``."""
        return value * math.log(self.kappa)

    def interval(self, value: float) -> tuple[float, float]:
        """``value`` over and times kappa."""
        return (value / self.kappa, value * self.kappa)


@dataclass(frozen=True)
class PoissonConstraint:
    """Auxiliary measurement t = n / tau, n ~ Poisson(tau nuisance): a rate counted beside, a gamma likelihood of the nuisance.

    The nuisance is not negative: below 0 ``log_prob`` is -inf, and at 0 unless n = 0. ``tau`` is the expected count per unit
    of the nuisance (Li and Ma 1983; Cousins, Linnemann, Tucker 2008, physics/0702156).
    """

    tau: float
    kind: Literal["poisson"] = "poisson"

    def __post_init__(self) -> None:
        _check("poisson constraint: tau", self.tau, 0.0)

    def log_prob(self, measured: Tensor, value: Tensor) -> Tensor:
        """Log likelihood of the nuisance ``value`` given the auxiliary measurement (up to a constant)."""
        possible = (value > 0) | ((value == 0) & (measured == 0))
        positive = torch.where(value > 0, value, torch.ones_like(value))
        counted = torch.where(measured > 0, measured, torch.ones_like(measured))
        ratio = torch.where((measured > 0) & possible, measured * (positive.log() - counted.log()), 0.0)
        return torch.where(possible, self.tau * (ratio - (value - measured)), -math.inf)

    def sample(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """Redraw the auxiliary measurement around the true ``value``."""
        return torch.poisson(self.tau * value, generator=generator) / self.tau

    def standard_error(self, value: float) -> float:
        """Standard deviation of the auxiliary measurement at the true ``value``, which is also 1 / sqrt(Fisher information)."""
        return math.sqrt(value / self.tau)

    def interval(self, value: float) -> tuple[float, float]:
        """``value`` less and plus one standard error, at least 0."""
        error = self.standard_error(value)
        return (max(0.0, value - error), value + error)


Constraint = Annotated[GaussianConstraint | LogNormalConstraint | PoissonConstraint, Field(discriminator="kind")]


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(value.shape, generator=generator, dtype=value.dtype)


def _check(what: str, value: float, above: float) -> None:
    if not above < value < math.inf:
        raise InputError(f"{what}: expected a finite number above {above:g}; got {value:g}")
