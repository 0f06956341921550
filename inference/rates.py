"""Rates as data: expected events per process, for likelihoods that are deployed without their toy.

    rate_k(theta) = yield_k * prod_j term_kj(theta_j) * prod_l code4(alpha_l; up_kl, down_kl)

over parameters j and nuisances l, alpha = (theta - nominal) / width. Terms are powers that
physics has: 1, mu, 1 - mu (a fraction), sqrt(mu) (interference), mu - sqrt(mu) and 1 - sqrt(mu) (off-shell Higgs, signal
and background less interference; ATLAS 2024, arXiv:2412.01548), or a polynomial, which nuisances may have, too (a free yield).
Beside them a polynomial in several parameters together may stand. How far the model is from the function it was fitted to
(`touchneedle.inference.rate_fit`) is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from touchneedle.inference.joint_polynomial import JointPolynomial

TermName = Literal["1", "mu", "1-mu", "sqrt(mu)", "mu-sqrt(mu)", "1-sqrt(mu)", "polynomial"]

TERMS: dict[str, Callable[[Tensor], Tensor]] = {
    "1": torch.ones_like,
    "mu": lambda mu: mu,
    "1-mu": lambda mu: 1 - mu,
    "sqrt(mu)": torch.sqrt,
    "mu-sqrt(mu)": lambda mu: mu - torch.sqrt(mu),
    "1-sqrt(mu)": lambda mu: 1 - torch.sqrt(mu),
}

MAX_DEGREE = 4


@dataclass(frozen=True)
class PoiTerm:
    """How a process depends on one parameter (of interest, but for polynomials).

    Attributes:
        coefficients: of the polynomial in the parameter, constant first; empty for the named terms.
    """

    parameter: str
    kind: TermName = "1"
    coefficients: tuple[float, ...] = ()

    def __call__(self, mu: Tensor) -> Tensor:
        """The factor at values (m,)."""
        if self.kind != "polynomial":
            return TERMS[self.kind](mu)
        value = torch.zeros_like(mu)
        for coefficient in reversed(self.coefficients):
            value = value * mu + coefficient
        return value


@dataclass(frozen=True)
class NuisanceFactor:
    """Ratios to nominal at nominal +- ``width`` of one nuisance, interpolated by HistFactory code 4."""

    parameter: str
    nominal: float
    width: float
    up: float
    down: float

    def __call__(self, value: Tensor) -> Tensor:
        """The factor at values (m,)."""
        from touchneedle.estimators.interpolation import interpolate_code4

        return interpolate_code4((value - self.nominal) / self.width, value.new_tensor(self.up), value.new_tensor(self.down))


@dataclass(frozen=True)
class ProcessRate:
    """Expected events of one process: a yield, times factors.

    Attributes:
        joint: a polynomial in several parameters, one more factor; None for a product.
    """

    nominal_yield: float
    terms: tuple[PoiTerm, ...] = ()
    factors: tuple[NuisanceFactor, ...] = ()
    joint: JointPolynomial | None = None


@dataclass(frozen=True)
class RateModel:
    """Rates of all processes as plain numbers; JSON through pydantic.

    Attributes:
        names: the parameters, in the order of theta.
        worst_deviation: largest |model - function| of a process over the total rate, at prior draws it was not fitted to.
    """

    names: tuple[str, ...]
    processes: tuple[ProcessRate, ...]
    worst_deviation: float = 0.0

    def rates(self, theta: Tensor) -> Tensor:
        """Expected events per process at theta (m, p): shape (m, k); differentiable."""
        return torch.stack([self._rate(process, theta) for process in self.processes], -1)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Total expected events at theta (m, p): shape (m,)."""
        return self.rates(theta).sum(-1)

    def _rate(self, process: ProcessRate, theta: Tensor) -> Tensor:
        rate = torch.full_like(theta[:, 0], process.nominal_yield)
        factors: list[PoiTerm | NuisanceFactor] = [*process.terms, *process.factors]
        for factor in factors:
            rate = rate * factor(theta[:, self.names.index(factor.parameter)])
        return rate if process.joint is None else rate * process.joint(theta, self.names)
