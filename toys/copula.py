"""Three lifetimes with fixed marginals: theta moves their dependence and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["Copula", "CopulaConfig", "normal_score"]

BASE = 0.5
# exp(-x) leaves the range of float64 near 708.
_FAR = 600.0
_SMALLEST = 1e-300


@dataclass
class CopulaConfig:
    """Options.

    Attributes:
        family: pair copula: ``gaussian`` with correlation tanh s, or ``clayton`` with alpha = exp s, whose tails depend.
        a: change of both strengths s per sigma of ``common``.
        b: change of the second strength per sigma of ``second``.
        fit_events: expected events.
    """

    family: Literal["gaussian", "clayton"] = "gaussian"
    a: float = 0.05
    b: float = 0.1
    fit_events: int = 1_000


class Copula(ExactToy):
    """p(x) = exp(-x1 - x2 - x3) c(x1, x2; s12) c(x2, x3; s23): exponential marginals, chained by pair copulas.

    s12 = dependence + a common, s23 = 0.5 + a common + b second. With rho = tanh s and the normal
    scores z of x, or with alpha = exp s and the Clayton copula of the survival probabilities exp(-x),

        gaussian:  log c = log cosh s - sinh(s)^2 (z1^2 + z2^2) / 2 + sinh(s) cosh(s) z1 z2
        clayton:   log c = log(1 + alpha) + (1 + alpha) (x1 + x2) - (2 + 1 / alpha) log(e^(alpha x1) + e^(alpha x2) - 1)

    (Nelsen, An Introduction to Copulas, 2006, sections 2.3 and 4.2). Neither parameters nor nuisances
    move a marginal. Exposes metrics that see marginals only (mean KS, axis-aligned slices, histograms
    of single features), for which all theta are alike, and estimators that pass them.
    """

    Config = CopulaConfig

    def __init__(self, config: CopulaConfig) -> None:
        check_positive("copula", a=config.a, b=config.b, fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        features = tuple(Feature(f"x_{i}", support=(0.0, math.inf)) for i in (1, 2, 3))
        self.spec = ToySpec("copula", "1", _PARAMETERS, features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        draw = self._sample_gaussian if self.config.family == "gaussian" else self._sample_clayton
        x = draw(theta, generator)
        return Events(x.float(), theta, torch.ones_like(x[:, 0]))

    def _sample_gaussian(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        first, *others = torch.randn(len(theta), 3, generator=generator, dtype=torch.float64).T
        scores = [first]
        for strength, noise in zip(self._strengths(theta), others, strict=True):
            scores.append(torch.tanh(strength) * scores[-1] + noise / torch.cosh(strength))
        return -torch.special.log_ndtr(-torch.stack(scores, -1))

    def _sample_clayton(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Inverse of P(X2 > x2|x1), in which w = exp(-e) is uniform: e^(alpha x2) = 1 + (w^(-alpha / (1 + alpha)) - 1) e^(alpha x1)."""
        first, *others = torch.empty(3, len(theta), dtype=torch.float64).exponential_(generator=generator)
        x = [first]
        for strength, e in zip(self._strengths(theta), others, strict=True):
            alpha = strength.exp()
            x.append(softplus(torch.expm1(alpha / (1 + alpha) * e).log() + alpha * x[-1], threshold=40) / alpha)
        return torch.stack(x, -1)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside = (x >= 0).all(-1)
        x = x.clamp(min=_SMALLEST)
        if self.config.family == "gaussian":
            log_pair, y = _log_gaussian, normal_score(x)
        else:
            log_pair, y = _log_clayton, x
        s12, s23 = self._strengths(theta)
        dependence = log_pair(y[:, 0], y[:, 1], s12) + log_pair(y[:, 1], y[:, 2], s23)
        return torch.where(inside, dependence - x.sum(-1), -math.inf)

    def _strengths(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """s12 and s23, each (n,)."""
        dependence, common, second = theta.unbind(-1)
        return dependence + self.config.a * common, BASE + self.config.a * common + self.config.b * second


def normal_score(x: Tensor) -> Tensor:
    """z with Phi(z) = 1 - exp(-x), for x > 0, accurate also where exp(-x) underflows."""
    low = torch.special.ndtri(-torch.expm1(-x.clamp(max=1.0)))
    high = -torch.special.ndtri(torch.exp(-x.clamp(1.0, _FAR)))
    far = x.clamp(min=_FAR)
    z = (2 * far - (4 * math.pi * far).log()).sqrt()
    for _ in range(4):
        # Newton's method for log Phi(-z) = -x.
        tail = torch.special.log_ndtr(-z)
        z = z + (tail + far) / torch.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - tail)
    return torch.where(x < 1, low, torch.where(x < _FAR, high, z))


def _log_gaussian(first: Tensor, second: Tensor, strength: Tensor) -> Tensor:
    """Log pair copula, from normal scores."""
    sinh, cosh = torch.sinh(strength), torch.cosh(strength)
    return cosh.log() - 0.5 * sinh**2 * (first**2 + second**2) + sinh * cosh * first * second


def _log_clayton(first: Tensor, second: Tensor, strength: Tensor) -> Tensor:
    """Log pair copula of the survival probabilities, from the exponential features themselves."""
    alpha = strength.exp()
    both = torch.logaddexp(alpha * first, alpha * second)
    log_sum = both + torch.log1p(-torch.exp(-both))
    return torch.log1p(alpha) + (1 + alpha) * (first + second) - (2 + 1 / alpha) * log_sum


_PARAMETERS = ParameterSpace(
    (
        Parameter("dependence", "interest", 0.5, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta"),
        Parameter("common", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_1"),
        Parameter("second", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_2"),
    )
)
