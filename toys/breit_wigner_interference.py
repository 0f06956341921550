"""A resonance that interferes with the continuum below it: a peak with a dip, and a yield quadratic in the coupling."""

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

__all__ = ["BreitWignerInterference", "BreitWignerInterferenceConfig"]

REACH = 14.0
COUPLING = (0.0, 1.5)
NODES, WEIGHTS = gauss_legendre(80, -1.0, 1.0)


@dataclass
class BreitWignerInterferenceConfig:
    """Options; masses in GeV, angles in radians.

    Attributes:
        low: lower edge of the mass window.
        high: upper edge of the mass window.
        mass: pole mass M.
        width: width Gamma at nominal.
        slope: the continuum falls as exp(-slope m), in 1/GeV.
        coupling: nominal coupling g, in units of the continuum's amplitude at M.
        angle: relative phase at nominal.
        a: change of the phase per sigma of ``phase``.
        b: change of the log width per sigma of ``width``.
        fit_events: expected events at nominal.
    """

    low: float = 300.0
    high: float = 700.0
    mass: float = 500.0
    width: float = 25.0
    slope: float = 0.006
    coupling: float = 0.5
    angle: float = 0.5
    a: float = 0.035
    b: float = 0.1
    fit_events: int = 1_000


class BreitWignerInterference(ExactToy):
    r"""A resonance interfering with a falling continuum: its coupling is measured, phase and width are uncertain.

    p(m) = \|B(m) + g e^{i phi} R(m)\|^2 / Z on [low, high], with B = exp(-slope (m - M) / 2),
    R = M Gamma / (m^2 - M^2 + i M Gamma), phi = angle + a phase, Gamma = width exp(b width), and the yield follows
    Z = I_0 + g I_1 + g^2 I_2. Z is integrated in v = arcsinh((m^2 - M^2) / (M Gamma)), where the peak is as wide as its
    tails: 80 Gauss-Legendre nodes give 13 digits. Two amplitudes with g > 0 and 0 < phi < pi never cancel, hence
    the density is positive and the likelihood regular.

    Exposes signal-plus-background thinking: the term linear in g changes sign at the peak, so no mixture of positive
    processes describes it, and a small coupling acts far from the peak.
    Source: Gaemers and Hoogeveen 1984, Phys. Lett. B 146, 347; Dicus, Stange, Willenbrock 1994, arXiv:hep-ph/9404359.
    """

    Config = BreitWignerInterferenceConfig

    def __init__(self, config: BreitWignerInterferenceConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        feature = Feature("mass", "GeV", "m", support=(config.low, config.high))
        self.spec = ToySpec("breit_wigner_interference", "1", _parameters(config.coupling), (feature,), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times Z relative to nominal, at theta (m, p): shape (m, 1)."""
        nominal = self.spec.parameters.nominal.to(theta.device).unsqueeze(0)
        return self.fit_events * torch.exp(self._log_norm(theta.double()) - self._log_norm(nominal)).unsqueeze(-1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        c = self.config
        mass = draw_by_rejection(self._acceptance, (c.low,), (c.high,), theta, generator)
        return Events(mass.clamp(c.low, c.high).float(), theta, torch.ones(len(theta), dtype=torch.float64))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        mass = x[:, 0].clamp(self.config.low, self.config.high)
        value = self._intensity(mass, theta).log() - once_per_row(self._log_norm, theta)
        return torch.where(mass == x[:, 0], value, -math.inf)

    def _acceptance(self, x: Tensor, theta: Tensor) -> Tensor:
        """Intensity relative to its bound: both amplitudes in phase, each at its largest."""
        largest = math.exp(-0.5 * self.config.slope * (self.config.low - self.config.mass))
        return self._intensity(x[:, 0], theta) / (largest + theta[:, 0]) ** 2

    def _intensity(self, mass: Tensor, theta: Tensor) -> Tensor:
        """Squared sum of the amplitudes at mass (..., n), one column per row of theta: shape of ``mass``."""
        c = self.config
        coupling, phase = theta[:, 0], c.angle + c.a * theta[:, 1]
        offset, gap = mass**2 - c.mass**2, self._gap(theta)
        # R = gap (offset - i gap) / (offset^2 + gap^2)
        strength = coupling * gap / (offset**2 + gap**2)
        real = torch.exp(-0.5 * c.slope * (mass - c.mass)) + strength * (offset * phase.cos() + gap * phase.sin())
        imaginary = strength * (offset * phase.sin() - gap * phase.cos())
        return real**2 + imaginary**2

    def _gap(self, theta: Tensor) -> Tensor:
        """M Gamma, shape (n,)."""
        return self.config.mass * self.config.width * torch.exp(self.config.b * theta[:, 2])

    def _log_norm(self, theta: Tensor) -> Tensor:
        """log Z, shape (n,)."""
        c, gap = self.config, self._gap(theta)
        low, high = torch.asinh((c.low**2 - c.mass**2) / gap), torch.asinh((c.high**2 - c.mass**2) / gap)
        v = 0.5 * (low + high) + 0.5 * (high - low) * NODES.to(theta.device).unsqueeze(-1)
        mass = torch.sqrt(c.mass**2 + gap * v.sinh())
        integrand = self._intensity(mass, theta) * gap * v.cosh() / (2 * mass)
        return torch.log(0.5 * (high - low) * (WEIGHTS.to(theta.device) @ integrand))


def _check(config: BreitWignerInterferenceConfig) -> None:
    positive = {name: getattr(config, name) for name in ("low", "width", "slope", "fit_events")}
    check_positive("breit_wigner_interference", **positive)
    if not config.low < config.mass < config.high:
        masses = f"{config.low:g}, {config.mass:g}, {config.high:g}"
        raise InputError(f"toy breit_wigner_interference: expected low < mass < high; got {masses} GeV")
    if not COUPLING[0] < config.coupling < COUPLING[1]:
        raise InputError(f"toy breit_wigner_interference: option coupling: expected a value between 0 and 1.5; got {config.coupling:g}")
    reach = REACH * abs(config.a)
    if not reach < config.angle < math.pi - reach:
        raise InputError(
            f"toy breit_wigner_interference: option angle: expected a value between {reach:g} and {math.pi - reach:g}, "
            f"where the amplitudes cannot cancel; got {config.angle:g}"
        )


def _parameters(coupling: float) -> ParameterSpace:
    return ParameterSpace(
        (
            Parameter("coupling", "interest", coupling, COUPLING, Uniform(*COUPLING), latex="g"),
            Parameter("phase", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("width", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
