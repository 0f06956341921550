"""A dijet resonance search: a bump on a spectrum that falls by seven orders of magnitude, its shape and scale uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, draw_labels, joint_truth, mixture_log_prob
from touchneedle.toys.normal_mass import log_normal_mass
from touchneedle.toys.quadrature import gauss_legendre, once_per_row
from touchneedle.toys.rejection import choose, rejection_sample

__all__ = ["Dijet", "DijetConfig"]

N_CELLS = 8
LARGEST_NUISANCE = 14.0
_NODES, _WEIGHTS = gauss_legendre(20)


@dataclass
class DijetConfig:
    """Options; masses in units of the collision energy.

    Attributes:
        low: lower edge of the mass window.
        high: upper edge of the mass window.
        p1: power of 1 - x.
        p2: falling power of x.
        p3: running of that power with ln x.
        peak: mean of the signal at nominal.
        width: standard deviation of the signal at nominal.
        fraction: nominal signal fraction.
        a: change of the log mass per sigma of ``jet_scale``.
        b: change of p2 per sigma of ``slope``.
        fit_events: expected events.
    """

    low: float = 0.08
    high: float = 0.6
    p1: float = 9.0
    p2: float = 5.0
    p3: float = 0.1
    peak: float = 0.15
    width: float = 0.008
    fraction: float = 0.1
    a: float = 0.01
    b: float = 0.1
    fit_events: int = 1_000


class Dijet(ExactToy):
    """p(x) = f N(x; s peak, s width) + (1 - f) q(x / s) / s on [low, high], with s = exp(a jet_scale), x = mass / sqrt(s_pp).

    q(z) ~ (1 - z)^p1 z^-(p2 + b slope + p3 ln z), the dijet fit function (e.g. CMS 2018, arXiv:1806.00843). Both are
    truncated to the window: the signal in closed form, the background by 20 Gauss-Legendre nodes in ln z.

    Exposes: a density that spans a factor 2e7, so that few events see most of the range; divergences that live in the
    tail; dependence on whether the method takes the logarithm of its input.
    """

    Config = DijetConfig

    def __init__(self, config: DijetConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        feature = Feature("mass", latex=r"m_{jj} / \sqrt{s}", support=(config.low, config.high))
        self.spec = ToySpec("dijet", "1", _parameters(config.fraction), (feature,), ("signal", "background"))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times (f, 1 - f) at theta (m, p): shape (m, 2)."""
        return self.fit_events * _fractions(theta.double())

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        is_signal = draw_labels(theta[:, 0], generator)
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        background = rejection_sample(theta, self._propose, generator).squeeze(-1)
        mass = torch.where(is_signal, self._signal_quantile(u, theta), background)
        x = self._rounded(mass).unsqueeze(-1)
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

    def _rounded(self, mass: Tensor) -> Tensor:
        """Masses (n,) as float32 inside the window: its edges are no float32 numbers."""
        low, high = (torch.tensor(edge, dtype=torch.float32) for edge in (self.config.low, self.config.high))
        low = low if low.double() >= self.config.low else low.nextafter(high)
        high = high if high.double() <= self.config.high else high.nextafter(low)
        return mass.float().clamp(low, high)

    def _components(self, mass: Tensor, theta: Tensor) -> Tensor:
        """Log densities of (signal, background) inside the window, shape (n, 2)."""
        c = self.config
        log_scale = c.a * theta[:, 1]
        mean, log_width, below, above = self._peak(theta)
        z = (mass - mean) * torch.exp(-log_width)
        signal = -0.5 * z**2 - log_width - 0.5 * math.log(2 * math.pi) - log_normal_mass(below, above)
        log_norm = once_per_row(self._log_norm, theta[:, 1:])
        # The spectrum is per ln z = ln x - log_scale; d ln x = dx / x.
        background = self._log_spectrum(mass.log() - log_scale, theta[:, 2]) - mass.log() - log_norm
        return torch.stack([signal, background], -1)

    def _peak(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, log width, and the window edges in units of the width, each (n,)."""
        c = self.config
        log_scale = c.a * theta[:, 1]
        mean, log_width = c.peak * torch.exp(log_scale), math.log(c.width) + log_scale
        scale = torch.exp(-log_width)
        return mean, log_width, (c.low - mean) * scale, (c.high - mean) * scale

    def _log_spectrum(self, log_z: Tensor, slope: Tensor) -> Tensor:
        """Log background per unit of ln z, not normalised; concave in ln z."""
        c = self.config
        return c.p1 * torch.log1p(-log_z.exp()) - (c.p2 + c.b * slope - 1 + c.p3 * log_z) * log_z

    def _log_norm(self, nuisances: Tensor) -> Tensor:
        """Log integral of the spectrum over the window at (jet_scale, slope), shape (n,)."""
        low, length = self._log_window(nuisances[:, :1])
        log_z = low + length * _NODES.to(nuisances.device)
        log_weights = (length * _WEIGHTS.to(nuisances.device)).log()
        return torch.logsumexp(self._log_spectrum(log_z, nuisances[:, 1:]) + log_weights, -1)

    def _log_window(self, jet_scale: Tensor) -> tuple[Tensor, float]:
        """Lower edge of the window in ln z, and its length."""
        return math.log(self.config.low) - self.config.a * jet_scale, math.log(self.config.high / self.config.low)

    def _signal_quantile(self, u: Tensor, theta: Tensor) -> Tensor:
        mean, log_width, below, above = self._peak(theta)
        lower, upper = torch.special.ndtr(below), torch.special.ndtr(above)
        return mean + log_width.exp() * torch.special.ndtri(lower + u * (upper - lower))

    def _propose(self, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A background mass from the tangents of the concave log spectrum at the middle of each cell."""
        low, length = self._log_window(theta[:, 1:2])
        half = 0.5 * length / N_CELLS
        centre = low + half * (2 * torch.arange(N_CELLS) + 1)
        height, slope = self._tangents(centre, theta[:, 2:])
        log_mass = height + torch.log(torch.sinh(slope * half) / slope)
        cell = choose(torch.exp(log_mass - log_mass.amax(-1, keepdim=True)), generator).unsqueeze(-1)
        centre, height, slope = (value.gather(-1, cell).squeeze(-1) for value in (centre, height, slope))
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        step = torch.log1p(u * torch.expm1(2 * half * slope)) / slope - half
        log_z = centre + step
        keep = torch.exp(self._log_spectrum(log_z, theta[:, 2]) - height - slope * step)
        return torch.exp(log_z + self.config.a * theta[:, 1]).unsqueeze(-1), keep

    def _tangents(self, log_z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Log spectrum and its derivative, kept off zero where it would be divided by."""
        c = self.config
        z = log_z.exp()
        derivative = -c.p1 * z / (1 - z) - (c.p2 + c.b * slope - 1) - 2 * c.p3 * log_z
        return self._log_spectrum(log_z, slope), torch.where(derivative.abs() < SMALLEST_SLOPE, SMALLEST_SLOPE, derivative)


# A line this much steeper still lies above the spectrum, to less than rounding.
SMALLEST_SLOPE = 1e-12


def _fractions(theta: Tensor) -> Tensor:
    return torch.stack([theta[:, 0], 1 - theta[:, 0]], -1)


def _check(config: DijetConfig) -> None:
    c = config
    check_positive("dijet", low=c.low, p1=c.p1, width=c.width, fit_events=c.fit_events)
    if not c.low < c.peak < c.high or c.high * math.exp(LARGEST_NUISANCE * abs(c.a)) >= 1:
        raise InputError(f"toy dijet: expected low < peak < high exp(14 a) < 1; got {c.low:g}, {c.peak:g}, {c.high:g}, a = {c.a:g}")
    if c.p3 < 0:
        raise InputError(f"toy dijet: option p3: expected a number >= 0; got {c.p3:g}")
    if not 0 < c.fraction < 1:
        raise InputError(f"toy dijet: option fraction: expected a value between 0 and 1; got {c.fraction:g}")


def _parameters(fraction: float) -> ParameterSpace:
    bounds = (-LARGEST_NUISANCE, LARGEST_NUISANCE)
    return ParameterSpace(
        (
            Parameter("fraction", "interest", fraction, (0.0, 1.0), Uniform(0.0, 1.0), latex="f"),
            Parameter("jet_scale", "nuisance", 0.0, bounds, Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("slope", "nuisance", 0.0, bounds, Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
