"""Interference in three dimensions: the signal's amplitude is sqrt(mu), and the likelihood has two maxima in mu."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.rejection import choose, rejection_sample

__all__ = ["AmplitudeInterference", "AmplitudeInterferenceConfig"]

DIM = 3
# The slope of sqrt(mu) has no bound at mu = 0.
SMALLEST_MU, LARGEST_MU = 0.01, 4.0
OTHER_MEAN, OTHER_VARIANCE = 1.5, 2.25
LOG_NORM = 0.5 * DIM * math.log(2 * math.pi)


@dataclass
class AmplitudeInterferenceConfig:
    """Options; yields are relative, their total at nominal is ``fit_events``.

    Attributes:
        cos_phase: cosine of the phase between signal and background amplitude.
        separation: distance between the means of signal and interfering background, in each feature.
        variance: of the interfering background, relative to the signal's.
        background: yield of the interfering background over the signal's at mu = 1.
        other: yield of the non-interfering background over the signal's at mu = 1.
        a: change of the mean of the non-interfering background per sigma of ``shift``, in each feature.
        fit_events: expected events at nominal.
    """

    cos_phase: float = -0.6
    separation: float = 0.2
    variance: float = 1.25
    background: float = 1.4
    other: float = 0.5
    a: float = 0.1
    fit_events: int = 1_000


class AmplitudeInterference(ExactToy):
    r"""p(x) ~ \|sqrt(mu) A_S + A_B\|^2 + D_other, with \|A_S\|^2 = yield_S N(x; 0, 1) and \|A_B\|^2 = yield_B N(x; d, v) in 3-D.

    Their product is interference, 2 sqrt(mu yield_S yield_B) cos(phase) sqrt(N_S N_B): a Gaussian whose integral is the
    overlap of N_S and N_B. Rates are mu, sqrt(mu), 1, 1 times the yields of signal, interference (negative where the phase
    is), interfering and other background N(x; 1.5 + a shift, 2.25) (after the toy of arXiv:2609.14136, with a larger phase).

    Exposes: a second maximum near the mu of equal rate, sqrt(mu') = -interference / yield_S - sqrt(mu), where minimisers
    stay and Wilks' theorem fails; process coefficients of either sign. Not regular for that reason.
    """

    Config = AmplitudeInterferenceConfig
    regular = False

    def __init__(self, config: AmplitudeInterferenceConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        features = tuple(Feature(f"x{i}") for i in range(1, DIM + 1))
        self.spec = ToySpec("amplitude_interference", "1", _PARAMETERS, features, ("signal", "interference", "background", "other"))
        self._scale = config.fit_events / (1 + self.interference + config.background + config.other)

    @property
    def interference(self) -> float:
        """Yield of the interference at mu = 1 over the signal's."""
        return 2 * self.config.cos_phase * math.sqrt(self.config.background) * self._overlap

    @property
    def _overlap(self) -> float:
        """Integral of sqrt(N_S N_B)."""
        variance = self.config.variance
        mean = 0.5 * (1 + variance)
        return math.exp(-0.125 * DIM * self.config.separation**2 / mean) * (math.sqrt(variance) / mean) ** (DIM / 2)

    def rates(self, theta: Tensor) -> Tensor:
        """Signed rates at theta (m, p), shape (m, 4); their sum is the positive expected yield."""
        c, mu = self.config, theta[:, 0].double()
        one = torch.ones_like(mu)
        return self._scale * torch.stack([mu, mu.sqrt() * self.interference, one * c.background, one * c.other], -1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        x = rejection_sample(theta, self._propose, generator)
        return Events(x.float(), theta, torch.ones_like(theta[:, 0]))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        total = self.expected_events(theta) / self._scale
        return self._log_yield(x, theta) - total.log()

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        c = self.config
        signal, background, other = self._components(x, theta)
        crossed = 0.5 * (signal + background - math.log(c.background)) - math.log(self._overlap)
        return torch.stack([signal, crossed, background - math.log(c.background), other - math.log(c.other)], -1)

    def _log_yield(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log of the differential yield, shape (n,), in units of the signal's yield."""
        signal, background, other = self._components(x, theta)
        return torch.logaddexp(self._log_coherent(signal + theta[:, 0].log(), background), other)

    def _log_coherent(self, first: Tensor, second: Tensor) -> Tensor:
        """Log squared modulus of A_1 + A_2 from those of A_1 and A_2, each (n,), scaled so that tails do not underflow."""
        top = torch.maximum(first, second).detach()
        a, b = torch.exp(0.5 * (first - top)), torch.exp(0.5 * (second - top))
        return top + torch.log(a**2 + b**2 + 2 * self.config.cos_phase * a * b)

    def _components(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log differential yields of signal at mu = 1, interfering and other background, each (n,)."""
        c = self.config
        signal = _log_normal(x, torch.zeros_like(x), 1.0)
        background = _log_normal(x, torch.full_like(x, c.separation), c.variance)
        other = _log_normal(x, self._other_mean(theta), OTHER_VARIANCE)
        return signal, background + math.log(c.background), other + math.log(c.other)

    def _other_mean(self, theta: Tensor) -> Tensor:
        return (OTHER_MEAN + self.config.a * theta[:, 1:]).expand(-1, DIM)

    def _propose(self, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """From (1 + |cos|) (mu S + B) + other, which is above the density because 2 |A_S A_B| <= |A_S|^2 + |A_B|^2."""
        c, mu = self.config, theta[:, 0]
        inflation = 1 + abs(c.cos_phase)
        yields = torch.stack([inflation * mu, torch.full_like(mu, inflation * c.background), torch.full_like(mu, c.other)], -1)
        index = choose(yields, generator).unsqueeze(-1)
        noise = torch.randn(len(theta), DIM, generator=generator, dtype=torch.float64)
        means = torch.where(index == 2, self._other_mean(theta), c.separation * (index == 1))
        x = means + noise * torch.tensor([1.0, c.variance, OTHER_VARIANCE], dtype=torch.float64).sqrt()[index]
        signal, background, other = self._components(x, theta)
        coherent = math.log(inflation) + torch.logaddexp(signal + mu.log(), background)
        return x, torch.exp(self._log_yield(x, theta) - torch.logaddexp(coherent, other))


def _log_normal(x: Tensor, mean: Tensor, variance: float) -> Tensor:
    """Log density of an isotropic Gaussian, shape (n,)."""
    return -0.5 * (x - mean).square().sum(-1) / variance - 0.5 * DIM * math.log(variance) - LOG_NORM


def _check(config: AmplitudeInterferenceConfig) -> None:
    c = config
    check_positive("amplitude_interference", variance=c.variance, background=c.background, other=c.other, fit_events=c.fit_events)
    if not -1 < c.cos_phase < 1:
        raise InputError(f"toy amplitude_interference: option cos_phase: expected a value between -1 and 1; got {c.cos_phase:g}")


_PARAMETERS = ParameterSpace(
    (
        Parameter("mu", "interest", 1.0, (SMALLEST_MU, LARGEST_MU), Uniform(SMALLEST_MU, LARGEST_MU), latex=r"\mu"),
        Parameter("shift", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
    )
)
