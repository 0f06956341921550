"""Muon neutrinos that disappear on a long baseline: a mass splitting read from ripples that crowd at low energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.quadrature import gauss_legendre, once_per_row
from touchneedle.toys.rejection import draw_by_rejection

__all__ = ["NeutrinoOscillation", "NeutrinoOscillationConfig"]

REACH = 14.0
# Over a wider range the likelihood has a second maximum, near a third of the truth.
SPLITTING = (1.8, 3.6)
# Radians per (1e-3 eV^2 km / GeV): 1e-3 eV^2 km / (4 GeV hbar c).
PHASE = 1.26693e-3
NODES, WEIGHTS = gauss_legendre(96, -1.0, 1.0)


@dataclass
class NeutrinoOscillationConfig:
    """Options; energies in GeV.

    Attributes:
        low: lower edge of the energy window.
        high: upper edge of the energy window.
        baseline: distance L in km.
        splitting: nominal dm2 in 1e-3 eV^2.
        mixing: sin^2(2 theta).
        power: the flux rises as E^power.
        cutoff: the flux falls as exp(-E / cutoff).
        a: change of the log energy scale per sigma of ``energy_scale``.
        b: change of ``power`` per sigma of ``flux_slope``.
        fit_events: expected events at nominal.
    """

    low: float = 0.25
    high: float = 10.0
    baseline: float = 735.0
    splitting: float = 2.5
    mixing: float = 0.9
    power: float = 1.0
    cutoff: float = 1.5
    a: float = 0.01
    b: float = 0.05
    fit_events: int = 1_000


class NeutrinoOscillation(ExactToy):
    """Survival of muon neutrinos: the mass splitting is measured, energy scale and flux slope are uncertain.

    p(E) = flux(E') [1 - mixing sin^2(1.267 dm2 L / E')] / Z on [low, high], with E' = E exp(-a energy_scale) the true
    energy, flux = (E' / E_0)^(power + b flux_slope) exp(-E' / cutoff), E_0 = power cutoff. The yield follows Z, which is
    integrated in log E by 96 Gauss-Legendre nodes.

    dm2 lies between 1.8 and 3.6 (1e-3 eV^2), where the expected likelihood has one maximum for every truth; over a wider
    range a ripple can be taken for its neighbour, and the toy would not be regular.

    Exposes smooth networks that blur the ripples, which crowd as 1 / E^2 towards low energy, and a scale that moves them
    as the splitting does.
    Source: Particle Data Group 2022, review of neutrino masses, mixing and oscillations; MINOS 2006, arXiv:hep-ex/0607088.
    """

    Config = NeutrinoOscillationConfig

    def __init__(self, config: NeutrinoOscillationConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        feature = Feature("energy", "GeV", "E", support=(config.low, config.high))
        self.spec = ToySpec("neutrino_oscillation", "1", _parameters(config.splitting), (feature,), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times Z relative to nominal, at theta (m, p): shape (m, 1)."""
        nominal = self.spec.parameters.nominal.to(theta.device).unsqueeze(0)
        return self.fit_events * torch.exp(self._log_norm(theta.double()) - self._log_norm(nominal)).unsqueeze(-1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        c = self.config
        energy = draw_by_rejection(self._acceptance, (c.low,), (c.high,), theta, generator)
        return Events(energy.clamp(c.low, c.high).float(), theta, torch.ones(len(theta), dtype=torch.float64))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        log_energy = x[:, 0].clamp(self.config.low, self.config.high).log()
        inside = (x[:, 0] >= self.config.low) & (x[:, 0] <= self.config.high)
        return torch.where(inside, self._log_density(log_energy, theta) - once_per_row(self._log_norm, theta), -math.inf)

    def _acceptance(self, x: Tensor, theta: Tensor) -> Tensor:
        """Density relative to the flux at its maximum, which lies at E' = (power + b flux_slope) cutoff."""
        c = self.config
        log_scale, power = self._nuisances(theta)
        top = (power * c.cutoff * log_scale.exp()).clamp(c.low, c.high).log()
        bound = self._log_flux(top - log_scale, power) - log_scale
        return torch.exp(self._log_density(x[:, 0].log(), theta) - bound)

    def _log_density(self, log_energy: Tensor, theta: Tensor) -> Tensor:
        """Log of flux times survival at log energies (..., n), one column per row of theta: shape of ``log_energy``."""
        c = self.config
        log_scale, power = self._nuisances(theta)
        log_true = log_energy - log_scale
        swing = torch.sin(PHASE * c.baseline * theta[:, 0] * torch.exp(-log_true)) ** 2
        return self._log_flux(log_true, power) + torch.log1p(-c.mixing * swing) - log_scale

    def _log_flux(self, log_true: Tensor, power: Tensor) -> Tensor:
        c = self.config
        return power * (log_true - math.log(c.power * c.cutoff)) - log_true.exp() / c.cutoff

    def _nuisances(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log energy scale and power of the flux, each (n,)."""
        return self.config.a * theta[:, 1], self.config.power + self.config.b * theta[:, 2]

    def _log_norm(self, theta: Tensor) -> Tensor:
        """log Z, shape (n,)."""
        half = 0.5 * math.log(self.config.high / self.config.low)
        log_energy = math.log(self.config.low) + half * (1 + NODES.to(theta.device).unsqueeze(-1))
        density = torch.exp(self._log_density(log_energy, theta) + log_energy)
        return torch.log(half * (WEIGHTS.to(theta.device) @ density))


def _check(config: NeutrinoOscillationConfig) -> None:
    positive = {name: getattr(config, name) for name in ("low", "baseline", "cutoff", "fit_events")}
    check_positive("neutrino_oscillation", **positive)
    if not config.low < config.high < math.inf:
        raise InputError(f"toy neutrino_oscillation: expected low < high; got {config.low:g} and {config.high:g} GeV")
    if not SPLITTING[0] < config.splitting < SPLITTING[1]:
        raise InputError(f"toy neutrino_oscillation: option splitting: expected a value between 1.8 and 3.6; got {config.splitting:g}")
    if not 0 < config.mixing < 1:
        raise InputError(f"toy neutrino_oscillation: option mixing: expected a value between 0 and 1; got {config.mixing:g}")
    if not config.power > REACH * abs(config.b):
        raise InputError(f"toy neutrino_oscillation: option power: expected more than {REACH * abs(config.b):g}; got {config.power:g}")


def _parameters(splitting: float) -> ParameterSpace:
    return ParameterSpace(
        (
            Parameter("splitting", "interest", splitting, SPLITTING, Uniform(*SPLITTING), unit="1e-3 eV^2", latex=r"\Delta m^2"),
            Parameter("energy_scale", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("flux_slope", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
