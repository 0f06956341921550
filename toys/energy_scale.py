"""An energy scale that acts through cuts: events move across edges that stay, as in the FAIR Universe challenge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, draw_labels, joint_truth, mixture_log_prob
from touchneedle.toys.normal_mass import log_normal_mass

__all__ = ["EnergyScale", "EnergyScaleConfig"]

# Edges that float32 holds exactly, in GeV.
PT_CUT, MASS_LOW, MASS_HIGH = 26.0, 50.0, 130.0


@dataclass
class EnergyScaleConfig:
    """Options.

    Attributes:
        fraction: signal fraction of the selected events at nominal.
        a: change of the log energy scale per sigma of ``energy_scale``.
        b: change of the log background rate per sigma of ``background_norm``.
        fit_events: expected selected events at nominal.
    """

    fraction: float = 0.2
    a: float = 0.02
    b: float = 0.05
    fit_events: int = 1_000


class Process(NamedTuple):
    """Before the shift: log-normal pt and mass, and a missing energy that is Gaussian given pt."""

    log_pt: float
    pt_width: float
    met: float
    met_per_pt: float
    met_width: float
    log_mass: float
    mass_width: float


PROCESSES = (
    Process(math.log(42.0), 0.35, 10.0, 0.4, 15.0, math.log(90.0), 0.2),
    Process(math.log(32.0), 0.35, 0.0, 0.3, 12.0, math.log(68.0), 0.2),
)


class Window(NamedTuple):
    """Cuts in units of the width, and the log acceptance, of one process, each (n,)."""

    pt: Tensor
    mass_low: Tensor
    mass_high: Tensor
    log_acceptance: Tensor


class EnergyScale(ExactToy):
    """x = (s pt, met - (s - 1) pt, sqrt(s) mass) with s = exp(a energy_scale), kept if pt > 26 and 50 < mass < 130 GeV.

    Per process p(x) = p_0(T^-1 x) |dT^-1/dx| / acceptance(energy_scale), acceptances by the error function. Before the
    shift ln pt and ln mass are Gaussian, and met given pt is. Rates: mu times the accepted signal, and
    exp(b background_norm) times the accepted background. The shift is that of the tau energy scale in the FAIR Universe
    challenge (arXiv:2410.02867): the missing energy along the tau loses what the tau gains.

    Exposes: acceptances that move with a nuisance while the edges stay; a nuisance that changes shape and rate
    together; estimators that smear density across hard cuts.
    """

    Config = EnergyScaleConfig

    def __init__(self, config: EnergyScaleConfig) -> None:
        check_positive("energy_scale", fit_events=config.fit_events)
        if not 0 < config.fraction < 1:
            raise InputError(f"toy energy_scale: option fraction: expected a value between 0 and 1; got {config.fraction:g}")
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("energy_scale", "1", _PARAMETERS, _FEATURES, ("signal", "background"))

    def rates(self, theta: Tensor) -> Tensor:
        """Accepted signal and background at theta (m, p), shape (m, 2)."""
        c, theta = self.config, theta.double()
        yields = torch.stack([c.fraction * theta[:, 0], (1 - c.fraction) * torch.exp(c.b * theta[:, 2])], -1)
        nominal = self.spec.parameters.nominal.to(theta.device).unsqueeze(0)
        gain = self._log_acceptance(theta) - self._log_acceptance(nominal)
        return self.fit_events * yields * gain.exp()

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        rates = self.rates(theta)
        is_signal = draw_labels(rates[:, 0] / rates.sum(-1), generator)
        u = torch.rand(3, len(theta), generator=generator, dtype=torch.float64)
        x = torch.where(is_signal.unsqueeze(-1), self._transform(u, theta, 0), self._transform(u, theta, 1)).float()
        x = torch.stack([x[:, 0].clamp(min=PT_CUT), x[:, 1], x[:, 2].clamp(MASS_LOW, MASS_HIGH)], -1)
        label = (~is_signal).long()
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(theta[:, 0]), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, x = _selected(x)
        rates = self.rates(theta)
        log_mixture = mixture_log_prob(rates / rates.sum(-1, keepdim=True), self._components(x, theta))
        return torch.where(inside, log_mixture, -math.inf)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, x = _selected(x)
        return torch.where(inside.unsqueeze(-1), self._components(x, theta), -math.inf)

    def _components(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log densities of (signal, background) inside the selection, shape (n, 2)."""
        return torch.stack([self._component(x, theta, k) for k in (0, 1)], -1)

    def _component(self, x: Tensor, theta: Tensor, k: int) -> Tensor:
        process, log_scale = PROCESSES[k], self.config.a * theta[:, 1]
        pt, met, mass = x.unbind(-1)
        log_pt = _log_normal(pt.log(), process.log_pt + log_scale, process.pt_width) - pt.log()
        log_met = _log_normal(met, _met_mean(pt, log_scale, process), process.met_width)
        log_mass = _log_normal(mass.log(), process.log_mass + 0.5 * log_scale, process.mass_width) - mass.log()
        return log_pt + log_met + log_mass - self._window(theta, k).log_acceptance

    def _transform(self, u: Tensor, theta: Tensor, k: int) -> Tensor:
        """Selected events of one process (n, 3) from uniform numbers (3, n)."""
        process, log_scale = PROCESSES[k], self.config.a * theta[:, 1]
        window = self._window(theta, k)
        pt = torch.exp(process.log_pt + log_scale - process.pt_width * ndtri(u[0] * ndtr(-window.pt)))
        met = _met_mean(pt, log_scale, process) + process.met_width * ndtri(u[1])
        low, high = ndtr(window.mass_low), ndtr(window.mass_high)
        mass = torch.exp(process.log_mass + 0.5 * log_scale + process.mass_width * ndtri(low + u[2] * (high - low)))
        return torch.stack([pt, met, mass], -1)

    def _log_acceptance(self, theta: Tensor) -> Tensor:
        return torch.stack([self._window(theta, k).log_acceptance for k in (0, 1)], -1)

    def _window(self, theta: Tensor, k: int) -> Window:
        process, log_scale = PROCESSES[k], self.config.a * theta[:, 1]
        pt = (math.log(PT_CUT) - process.log_pt - log_scale) / process.pt_width
        low, high = ((math.log(edge) - process.log_mass - 0.5 * log_scale) / process.mass_width for edge in (MASS_LOW, MASS_HIGH))
        return Window(pt, low, high, log_ndtr(-pt) + log_normal_mass(low, high))


def _selected(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each event passes the cuts (n,), and x with pt and mass moved inside (n, 3)."""
    pt, met, mass = x.unbind(-1)
    inside = (pt >= PT_CUT) & (mass >= MASS_LOW) & (mass <= MASS_HIGH)
    return inside, torch.stack([pt.clamp(min=PT_CUT), met, mass.clamp(MASS_LOW, MASS_HIGH)], -1)


def _met_mean(pt: Tensor, log_scale: Tensor, process: Process) -> Tensor:
    """Mean missing energy given the shifted pt: what was expected of pt / s, less what pt has gained."""
    before = pt * torch.exp(-log_scale)
    return process.met + process.met_per_pt * before - (pt - before)


def _log_normal(value: Tensor, mean: Tensor, width: float) -> Tensor:
    return -0.5 * ((value - mean) / width) ** 2 - math.log(width * math.sqrt(2 * math.pi))


_FEATURES = (
    Feature("pt", "GeV", r"p_\mathrm{T}", support=(PT_CUT, math.inf)),
    Feature("met", "GeV", r"p_\mathrm{T}^\mathrm{miss}"),
    Feature("mass", "GeV", "m", support=(MASS_LOW, MASS_HIGH)),
)

_PARAMETERS = ParameterSpace(
    (
        Parameter("mu", "interest", 1.0, (0.0, 3.0), Uniform(0.0, 3.0), latex=r"\mu"),
        Parameter("energy_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        Parameter("background_norm", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
    )
)
