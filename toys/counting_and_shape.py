"""Counting and shape: a signal strength from the yields of a signal and a control region and the shape of a mass peak."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, joint_truth, mixture_log_prob
from touchneedle.toys.normal_mass import log_normal_mass

__all__ = ["CountingAndShape", "CountingAndShapeConfig"]

LOW, HIGH, PEAK, WIDTH, SLOPE = 100.0, 160.0, 125.0, 3.0, 0.03
SIGNAL_REGION, CONTROL_REGION = 0.0, 1.0
CONTROL = 2


@dataclass
class CountingAndShapeConfig:
    """Options.

    Attributes:
        signal: signal over background of the signal region at nominal.
        tau: background of the control region over that of the signal region.
        a: relative change of the peak position per sigma of ``energy_scale``.
        b: change of the log signal yield per sigma of ``energy_scale``.
        fit_events: expected events of both regions at nominal.
    """

    signal: float = 0.5
    tau: float = 1.0
    a: float = 0.01
    b: float = 0.1
    fit_events: int = 1_000


class CountingAndShape(ExactToy):
    """Yields mu S exp(b nu) + beta B in the signal region, tau beta B in the control region; x = (region, mass).

    Signal: N(125 (1 + a nu), 3^2) truncated to [100, 160] GeV; background of both regions: falls as exp(-0.03 mass).
    p(x) is the shape, total yield divided out, against counting x Lebesgue measure; the extended likelihood of N
    events is Poisson(N; sum of rates) prod p(x_i) (Barlow 1990). ``background`` (beta) has no constraint term: the
    control region measures it, as in an on/off experiment (Li and Ma 1983).

    Exposes: methods that learn shapes and ignore the yield: p(x) knows of mu / beta alone, so that without the
    yield mu cannot be measured at all; and what becomes of a category among continuous features.
    """

    Config = CountingAndShapeConfig

    def __init__(self, config: CountingAndShapeConfig) -> None:
        check_positive("counting_and_shape", signal=config.signal, tau=config.tau, fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        features = (Feature("region", kind="discrete", support=(0.0, 1.0)), Feature("mass", "GeV", "m", support=(LOW, HIGH)))
        self.spec = ToySpec("counting_and_shape", "1", _PARAMETERS, features, ("signal", "background", "control"))

    def rates(self, theta: Tensor) -> Tensor:
        """Expected (signal, background, control) events at theta (m, p): shape (m, 3)."""
        c = self.config
        mu, background, nu = theta.double().unbind(-1)
        unit = self.fit_events / (1 + c.signal + c.tau)
        return unit * torch.stack([mu * c.signal * torch.exp(c.b * nu), background, c.tau * background], -1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        label = torch.multinomial(self._fractions(theta), 1, generator=generator).squeeze(-1)
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        mass = torch.where(label == 0, self._signal_quantile(u, theta), _background_quantile(u)).clamp(LOW, HIGH)
        region = torch.where(label == CONTROL, CONTROL_REGION, SIGNAL_REGION).double()
        x = torch.stack([region, mass], -1).float()
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(u), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, components = self._components(x, theta)
        return torch.where(inside, mixture_log_prob(self._fractions(theta), components), -math.inf)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, components = self._components(x, theta)
        return torch.where(inside.unsqueeze(-1), components, -math.inf)

    def _fractions(self, theta: Tensor) -> Tensor:
        rates = self.rates(theta)
        return rates / rates.sum(-1, keepdim=True)

    def _components(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Whether x is in the support (n,), and log densities of the processes (n, 3), -inf in the other region."""
        region, mass = x.unbind(-1)
        is_control = region == CONTROL_REGION
        inside = (mass >= LOW) & (mass <= HIGH) & (is_control | (region == SIGNAL_REGION))
        mass = mass.clamp(LOW, HIGH)
        norm = math.log(SLOPE) - math.log(-math.expm1(-SLOPE * (HIGH - LOW)))
        falling = norm - SLOPE * (mass - LOW)
        components = torch.stack([self._log_signal(mass, theta), falling, falling], -1)
        belongs = torch.stack([~is_control, ~is_control, is_control], -1)
        return inside, torch.where(belongs, components, -math.inf)

    def _log_signal(self, mass: Tensor, theta: Tensor) -> Tensor:
        mean = self._mean(theta)
        z = (mass - mean) / WIDTH
        return -0.5 * z**2 - math.log(WIDTH * math.sqrt(2 * math.pi)) - log_normal_mass((LOW - mean) / WIDTH, (HIGH - mean) / WIDTH)

    def _signal_quantile(self, u: Tensor, theta: Tensor) -> Tensor:
        mean = self._mean(theta)
        lower, upper = torch.special.ndtr((LOW - mean) / WIDTH), torch.special.ndtr((HIGH - mean) / WIDTH)
        return mean + WIDTH * torch.special.ndtri(lower + u * (upper - lower))

    def _mean(self, theta: Tensor) -> Tensor:
        return PEAK * (1 + self.config.a * theta[:, 2])


def _background_quantile(u: Tensor) -> Tensor:
    return LOW - torch.log1p(u * math.expm1(-SLOPE * (HIGH - LOW))) / SLOPE


_PARAMETERS = ParameterSpace(
    (
        Parameter("mu", "interest", 1.0, (0.0, 3.0), Uniform(0.0, 3.0), latex=r"\mu"),
        Parameter("background", "nuisance", 1.0, (0.5, 2.0), Uniform(0.5, 2.0), anchors=(0.9, 1.1), latex=r"\beta"),
        Parameter("energy_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu"),
    )
)
