"""A mass peak on a falling spectrum: the signal fraction is measured, scale and resolution are uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, draw_labels, joint_truth, mixture_log_prob
from touchneedle.toys.normal_mass import log_normal_mass

__all__ = ["MassBump", "MassBumpConfig"]


@dataclass
class MassBumpConfig:
    """Options; masses in GeV.

    Attributes:
        low: lower edge of the mass window.
        high: upper edge of the mass window.
        peak: mean of the signal at nominal.
        width: standard deviation of the signal at nominal.
        slope: background falls as exp(-slope mass), in 1/GeV.
        fraction: nominal signal fraction.
        a: relative change of the peak position per sigma of ``mass_scale``.
        b: change of the log width per sigma of ``resolution``.
        fit_events: expected events.
    """

    low: float = 100.0
    high: float = 160.0
    peak: float = 125.0
    width: float = 2.0
    slope: float = 0.03
    fraction: float = 0.3
    a: float = 0.01
    b: float = 0.2
    fit_events: int = 1_000


class MassBump(ExactToy):
    """p(m) = f N(m; peak (1 + a mass_scale), width exp(b resolution)) + (1 - f) Exp(m; slope) on [low, high].

    Both components are truncated to the window and normalised in closed form, so that the fraction
    is that of the selected events.
    """

    Config = MassBumpConfig

    def __init__(self, config: MassBumpConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        feature = Feature("mass", "GeV", "m", support=(config.low, config.high))
        self.spec = ToySpec("mass_bump", "1", _parameters(config.fraction), (feature,), ("signal", "background"))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times (f, 1 - f) at theta (m, p): shape (m, 2)."""
        return self.fit_events * _fractions(theta.double())

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        is_signal = draw_labels(theta[:, 0], generator)
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        mass = torch.where(is_signal, self._signal_quantile(u, theta), self._background_quantile(u))
        x = mass.clamp(self.config.low, self.config.high).unsqueeze(-1).float()
        label = (~is_signal).long()
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(u), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, mass = self._window(x)
        return torch.where(inside, mixture_log_prob(_fractions(theta), self._components(mass, theta)), -math.inf)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, mass = self._window(x)
        return torch.where(inside.unsqueeze(-1), self._components(mass, theta), -math.inf)

    def _window(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each mass is in the window, and the mass clamped to it, each (n,)."""
        mass = x[:, 0]
        inside = (mass >= self.config.low) & (mass <= self.config.high)
        return inside, mass.clamp(self.config.low, self.config.high)

    def _components(self, mass: Tensor, theta: Tensor) -> Tensor:
        """Log densities of (signal, background) inside the window, shape (n, 2)."""
        mean, log_width, below, above = self._peak(theta)
        z = (mass - mean) * torch.exp(-log_width)
        signal = -0.5 * z**2 - log_width - 0.5 * math.log(2 * math.pi) - log_normal_mass(below, above)
        c = self.config
        norm = math.log(c.slope) - math.log(-math.expm1(-c.slope * (c.high - c.low)))
        return torch.stack([signal, norm - c.slope * (mass - c.low)], -1)

    def _peak(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, log width, and the window edges in units of the width, each (n,)."""
        c = self.config
        mean = c.peak * (1 + c.a * theta[:, 1])
        log_width = math.log(c.width) + c.b * theta[:, 2]
        scale = torch.exp(-log_width)
        return mean, log_width, (c.low - mean) * scale, (c.high - mean) * scale

    def _signal_quantile(self, u: Tensor, theta: Tensor) -> Tensor:
        mean, log_width, below, above = self._peak(theta)
        lower, upper = torch.special.ndtr(below), torch.special.ndtr(above)
        return mean + log_width.exp() * torch.special.ndtri(lower + u * (upper - lower))

    def _background_quantile(self, u: Tensor) -> Tensor:
        c = self.config
        return c.low - torch.log1p(u * math.expm1(-c.slope * (c.high - c.low))) / c.slope


def _fractions(theta: Tensor) -> Tensor:
    return torch.stack([theta[:, 0], 1 - theta[:, 0]], -1)


def _check(config: MassBumpConfig) -> None:
    check_positive("mass_bump", width=config.width, slope=config.slope, fit_events=config.fit_events)
    if not config.low < config.peak < config.high:
        raise InputError(f"toy mass_bump: expected low < peak < high; got {config.low:g}, {config.peak:g}, {config.high:g} GeV")
    if not 0 < config.fraction < 1:
        raise InputError(f"toy mass_bump: option fraction: expected a value between 0 and 1; got {config.fraction:g}")


def _parameters(fraction: float) -> ParameterSpace:
    return ParameterSpace(
        (
            Parameter("fraction", "interest", fraction, (0.0, 1.0), Uniform(0.0, 1.0), latex="f"),
            Parameter("mass_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("resolution", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
