"""A jet count with the momentum of the leading jet, missing without jets, and an isolation that is often exactly zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["MixedMultiplicity", "MixedMultiplicityConfig"]

MISSING = -1.0
# Smallest continuous value, so that none of them is rounded to the atom at zero.
TINY = 1e-30


@dataclass
class MixedMultiplicityConfig:
    """Options.

    Attributes:
        zero_share: nominal probability that the isolation is exactly zero.
        a: change of the log momentum scale per sigma of ``energy_scale``.
        b: change of the log odds of a zero isolation per sigma of ``threshold``.
        fit_events: expected events.
    """

    zero_share: float = 0.4
    a: float = 0.1
    b: float = 0.3
    fit_events: int = 1_000


class MixedMultiplicity(ExactToy):
    """p(n, t, i) = Poisson(n; multiplicity) p(t|n) p(i|n), against counting x (atom + Lebesgue) x (atom + Lebesgue) measure.

    t: the largest of n exponentials of mean s = exp(a energy_scale), p(t|n) = n (1 - e^(-t/s))^(n-1) e^(-t/s) / s, and
    -1 (missing) for n = 0; i: exactly 0 with probability e, log odds logit(zero_share) + b threshold, else exponential
    of mean 1 + n.

    Exposes: densities that grow without bound on atoms (no dequantisation is right for a likelihood), default
    values taken for measurements, masks that are forgotten.
    """

    Config = MixedMultiplicityConfig

    def __init__(self, config: MixedMultiplicityConfig) -> None:
        check_positive("mixed_multiplicity", fit_events=config.fit_events)
        if not 0 < config.zero_share < 1:
            raise InputError(f"toy mixed_multiplicity: option zero_share: expected a value between 0 and 1; got {config.zero_share:g}")
        self.config = config
        self.fit_events = config.fit_events
        features = (
            Feature("multiplicity", kind="discrete", support=(0.0, math.inf)),
            Feature("leading", support=(MISSING, math.inf), missing=MISSING),
            Feature("isolation", support=(0.0, math.inf)),
        )
        self.spec = ToySpec("mixed_multiplicity", "1", _PARAMETERS, features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        n = torch.poisson(theta[:, 0], generator=generator)
        u = torch.rand(3, len(theta), generator=generator, dtype=torch.float64)
        # The largest of n uniforms is U^(1/n); 1 - U is never zero.
        largest = -torch.log(-torch.expm1(torch.log1p(-u[0]) / n.clamp(min=1)).clamp(max=-TINY))
        leading = torch.where(n > 0, (self._log_scale(theta).exp() * largest).clamp(min=TINY), MISSING)
        isolation = (-(1 + n) * torch.log1p(-u[1])).clamp(min=TINY)
        isolation = torch.where(u[2] < torch.sigmoid(self._log_odds(theta)), 0.0, isolation)
        x = torch.stack([n, leading, isolation], -1).float()
        return Events(x, theta, torch.ones_like(n))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        n, leading, isolation = x.unbind(-1)
        inside = (n >= 0) & (n == n.round()) & n.isfinite()
        n = torch.where(inside, n, 0.0)
        log_prob = n * theta[:, 0].log() - theta[:, 0] - torch.lgamma(n + 1)
        log_prob = log_prob + self._log_leading(leading, n, theta) + self._log_isolation(isolation, n, theta)
        return torch.where(inside, log_prob, -math.inf)

    def _log_leading(self, leading: Tensor, n: Tensor, theta: Tensor) -> Tensor:
        """Log density of the largest of n exponentials, or the atom of n = 0."""
        present = (n > 0) & (leading > 0) & leading.isfinite()
        log_scale = self._log_scale(theta)
        t = torch.where(present, leading, 1.0) * torch.exp(-log_scale)
        count = torch.where(present, n, 1.0)
        largest = count.log() + (count - 1) * torch.log(-torch.expm1(-t)) - t - log_scale
        absent = (n == 0) & (leading == MISSING)
        return torch.where(present, largest, torch.where(absent, 0.0, -math.inf))

    def _log_isolation(self, isolation: Tensor, n: Tensor, theta: Tensor) -> Tensor:
        """Log probability of the atom at zero, or log density above it."""
        log_odds = self._log_odds(theta)
        above = logsigmoid(-log_odds) - isolation / (1 + n) - torch.log1p(n)
        inside = (isolation >= 0) & isolation.isfinite()
        return torch.where(inside, torch.where(isolation == 0, logsigmoid(log_odds), above), -math.inf)

    def _log_scale(self, theta: Tensor) -> Tensor:
        return self.config.a * theta[:, 1]

    def _log_odds(self, theta: Tensor) -> Tensor:
        share = self.config.zero_share
        return math.log(share / (1 - share)) + self.config.b * theta[:, 2]


_PARAMETERS = ParameterSpace(
    (
        Parameter("multiplicity", "interest", 2.0, (0.5, 5.0), Uniform(0.5, 5.0), latex=r"\lambda"),
        Parameter("energy_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_1"),
        Parameter("threshold", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_2"),
    )
)
