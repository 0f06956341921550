"""A mass peak with a power-law tail on a falling spectrum: the signal strength is measured, and the yield moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, draw_labels, joint_truth, mixture_log_prob

__all__ = ["CrystalBall", "CrystalBallConfig"]

REACH = 14.0
STRENGTH = (0.0, 4.0)


@dataclass
class CrystalBallConfig:
    """Options; masses in GeV.

    Attributes:
        low: lower edge of the mass window.
        high: upper edge of the mass window.
        peak: peak of the signal at nominal.
        width: core width of the signal at nominal.
        alpha: where the tail begins, in widths below the peak.
        power: exponent n of the tail.
        slope: background falls as exp(-slope mass), in 1/GeV.
        fraction: signal fraction at strength 1.
        a: relative change of the peak position per sigma of ``mass_scale``.
        b: change of the log width per sigma of ``resolution``.
        fit_events: expected events at strength 1.
    """

    low: float = 100.0
    high: float = 160.0
    peak: float = 125.0
    width: float = 2.0
    alpha: float = 1.2
    power: float = 2.5
    slope: float = 0.03
    fraction: float = 0.3
    a: float = 0.01
    b: float = 0.2
    fit_events: int = 1_000


class Peak(NamedTuple):
    """The signal, each (n,): ``below`` and ``above`` are the window's edges in widths, ``tail`` and ``total`` integrals of the shape."""

    mean: Tensor
    log_width: Tensor
    below: Tensor
    above: Tensor
    tail: Tensor
    total: Tensor


class CrystalBall(ExactToy):
    """A Crystal Ball peak on a falling spectrum: the signal strength is measured, scale and resolution are uncertain.

    With t = (m - peak (1 + a mass_scale)) / (width exp(b resolution)), the signal is proportional to exp(-t^2 / 2)
    for t > -alpha and to (n / alpha)^n exp(-alpha^2 / 2) (n / alpha - alpha - t)^(-n) below; both it and the
    exponential background are truncated to [low, high] and normalised in closed form. The yield is
    fit_events (mu f + 1 - f), with mu = ``strength`` and f = ``fraction``.

    Exposes Gaussian bases and splines in a power-law tail under which the background lies, and smoothness that is
    taken for granted where only the first derivative is continuous.
    Source: J. Gaiser 1982, SLAC-R-255, appendix F.
    """

    Config = CrystalBallConfig

    def __init__(self, config: CrystalBallConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        feature = Feature("mass", "GeV", "m", support=(config.low, config.high))
        self.spec = ToySpec("crystal_ball", "1", _PARAMETERS, (feature,), ("signal", "background"))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times (mu f, 1 - f) at theta (m, p): shape (m, 2)."""
        signal = self.config.fraction * theta[:, 0].double()
        return self.fit_events * torch.stack([signal, torch.full_like(signal, 1 - self.config.fraction)], -1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        is_signal = draw_labels(self._fractions(theta)[:, 0], generator)
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        mass = torch.where(is_signal, self._signal_quantile(u, theta), self._background_quantile(u))
        x = mass.clamp(self.config.low, self.config.high).unsqueeze(-1).float()
        label = (~is_signal).long()
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(u), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, mass = self._window(x)
        return torch.where(inside, mixture_log_prob(self._fractions(theta), self._components(mass, theta)), -math.inf)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, mass = self._window(x)
        return torch.where(inside.unsqueeze(-1), self._components(mass, theta), -math.inf)

    def _fractions(self, theta: Tensor) -> Tensor:
        rates = self.rates(theta)
        return rates / rates.sum(-1, keepdim=True)

    def _window(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each mass is in the window, and the mass clamped to it, each (n,)."""
        mass = x[:, 0]
        inside = (mass >= self.config.low) & (mass <= self.config.high)
        return inside, mass.clamp(self.config.low, self.config.high)

    def _components(self, mass: Tensor, theta: Tensor) -> Tensor:
        """Log densities of (signal, background) inside the window, shape (n, 2)."""
        c = self.config
        peak = self._peak(theta)
        t = (mass - peak.mean) * torch.exp(-peak.log_width)
        signal = self._log_shape(t) - peak.log_width - peak.total.log()
        norm = math.log(c.slope) - math.log(-math.expm1(-c.slope * (c.high - c.low)))
        return torch.stack([signal, norm - c.slope * (mass - c.low)], -1)

    def _log_shape(self, t: Tensor) -> Tensor:
        """Log of the shape, which is 1 at the peak; the clamps keep either branch finite where the other holds."""
        alpha, n = self.config.alpha, self.config.power
        tail = -0.5 * alpha**2 - n * torch.log1p(-alpha / n * (t.clamp(max=-alpha) + alpha))
        return torch.where(t > -alpha, -0.5 * t.clamp(min=-alpha) ** 2, tail)

    def _peak(self, theta: Tensor) -> Peak:
        c = self.config
        mean = c.peak * (1 + c.a * theta[:, 1])
        log_width = math.log(c.width) + c.b * theta[:, 2]
        scale = torch.exp(-log_width)
        below, above = (c.low - mean) * scale, (c.high - mean) * scale
        tail = self._tail_mass(below)
        core = torch.special.ndtr(above) - torch.special.ndtr(below.clamp(min=-c.alpha))
        return Peak(mean, log_width, below, above, tail, tail + math.sqrt(2 * math.pi) * core)

    def _tail_mass(self, below: Tensor) -> Tensor:
        """Integral of the shape from ``below`` to -alpha, zero if that is empty: shape of ``below``."""
        alpha, n = self.config.alpha, self.config.power
        growth = torch.log1p(-alpha / n * (below.clamp(max=-alpha) + alpha))
        return -self._full_tail() * torch.expm1((1 - n) * growth)

    def _full_tail(self) -> float:
        alpha, n = self.config.alpha, self.config.power
        return n / alpha / (n - 1) * math.exp(-0.5 * alpha**2)

    def _signal_quantile(self, u: Tensor, theta: Tensor) -> Tensor:
        """Inverse of the closed distribution function, in the tail and in the core."""
        alpha, n = self.config.alpha, self.config.power
        peak = self._peak(theta)
        mass = u * peak.total
        missing = (peak.tail - mass).clamp(min=0) / self._full_tail()
        tail = -alpha - n / alpha * torch.expm1(torch.log1p(-missing) / (1 - n))
        start = torch.special.ndtr(peak.below.clamp(min=-alpha))
        core = torch.special.ndtri(start + (mass - peak.tail).clamp(min=0) / math.sqrt(2 * math.pi))
        return peak.mean + peak.log_width.exp() * torch.where(mass < peak.tail, tail, core)

    def _background_quantile(self, u: Tensor) -> Tensor:
        c = self.config
        return c.low - torch.log1p(u * math.expm1(-c.slope * (c.high - c.low))) / c.slope


def _check(config: CrystalBallConfig) -> None:
    positive = {name: getattr(config, name) for name in ("width", "alpha", "slope", "fit_events")}
    check_positive("crystal_ball", **positive)
    if not 1 < config.power < math.inf:
        raise InputError(f"toy crystal_ball: option power: expected a value above 1; got {config.power:g}")
    if not 0 < config.fraction < 1:
        raise InputError(f"toy crystal_ball: option fraction: expected a value between 0 and 1; got {config.fraction:g}")
    reach = REACH * abs(config.a) * config.peak
    if not config.low < config.peak - reach <= config.peak + reach < config.high:
        raise InputError(
            f"toy crystal_ball: expected a peak that stays in the window at {REACH:g} sigma of the scale; "
            f"got {config.peak:g} +- {reach:g} in {config.low:g} to {config.high:g} GeV"
        )


_PARAMETERS = ParameterSpace(
    (
        Parameter("strength", "interest", 1.0, STRENGTH, Uniform(*STRENGTH), latex=r"\mu"),
        Parameter("mass_scale", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        Parameter("resolution", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
    )
)
