"""A three-body decay in its Dalitz plot: two resonances interfere inside a curved boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.quadrature import once_per_row
from touchneedle.toys.rejection import choose, rejection_sample

__all__ = ["Dalitz", "DalitzConfig"]

# A D meson to K pi pi, in GeV.
PARENT, DAUGHTERS = 1.865, (0.494, 0.140, 0.140)
N_NODES = 320


@dataclass
class DalitzConfig:
    """Options; masses and widths in GeV.

    Attributes:
        mass: of the resonance in m12, at nominal.
        width: of the resonance in m12, at nominal.
        other_mass: of the resonance in m13.
        other_width: of the resonance in m13.
        constant: amplitude without resonance.
        imaginary: imaginary part of the coupling to the resonance in m13.
        a: relative change of ``mass`` per sigma of ``mass_shift``.
        b: change of the log width per sigma of ``width_shift``.
        fit_events: expected events.
    """

    mass: float = 0.892
    width: float = 0.05
    other_mass: float = 1.43
    other_width: float = 0.27
    constant: float = 0.4
    imaginary: float = 0.5
    a: float = 0.002
    b: float = 0.02
    fit_events: int = 1_000


class Dalitz(ExactToy):
    r"""p(x) = \|constant + BW_1(m12^2) + (coupling + i imaginary) BW_2(m13^2)\|^2 / norm inside the kinematic boundary.

    x = (m12^2, m13^2); BW(s) = m G / (m^2 - s - i m G), whose modulus is at most 1. At given m12^2 the boundary is
    m13^2 = m1^2 + m3^2 + 2 E1 E3 +- 2 p1 p3 in the rest frame of particles 1 and 2 (Particle Data Group, review of
    kinematics). The norm is elementary in m13^2, and a Chebyshev rule in m12^2, which takes the square roots at its ends.
    A single process at a constant rate.

    Exposes: probability that leaks over a curved hard boundary; narrow bands that interfere where they cross.
    """

    Config = DalitzConfig

    def __init__(self, config: DalitzConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        features = (
            Feature("m12_squared", "GeV^2", "m_{12}^2", support=_range(1, 2)),
            Feature("m13_squared", "GeV^2", "m_{13}^2", support=_range(2, 1)),
        )
        self.spec = ToySpec("dalitz", "1", _PARAMETERS, features, ("all",))
        self._nodes, self._moments = self._strips()

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        x = rejection_sample(theta, self._propose, generator)
        return Events(x.float(), theta, torch.ones_like(theta[:, 0]))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        log_density = self._intensity(x, theta).log() - once_per_row(self._log_norm, theta)
        return torch.where(_inside(x), log_density, -math.inf)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_prob(x, theta).unsqueeze(-1)

    def _intensity(self, x: Tensor, theta: Tensor) -> Tensor:
        """Squared amplitude, shape (n,)."""
        c, coupling = self.config, theta[:, 0]
        real_1, imaginary_1 = _breit_wigner(x[:, 0], *self._resonance(theta))
        real_2, imaginary_2 = _breit_wigner(x[:, 1], c.other_mass**2, c.other_mass * c.other_width)
        real = c.constant + real_1 + coupling * real_2 - c.imaginary * imaginary_2
        imaginary = imaginary_1 + coupling * imaginary_2 + c.imaginary * real_2
        return real**2 + imaginary**2

    def _resonance(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Squared mass, and mass times width, of the resonance in m12, in the shape of a column of theta."""
        mass = self.config.mass * (1 + self.config.a * theta[..., 1])
        return mass**2, mass * self.config.width * torch.exp(self.config.b * theta[..., 2])

    def _log_norm(self, theta: Tensor) -> Tensor:
        """Log integral of the squared amplitude inside the boundary, shape (n,)."""
        c, coupling = self.config, theta[:, 0]
        squared_mass, mass_width = self._resonance(theta)
        real, imaginary = _breit_wigner(self._nodes.to(theta.device), squared_mass.unsqueeze(-1), mass_width.unsqueeze(-1))
        length, real_2, imaginary_2 = self._moments.to(theta.device)
        # |BW|^2 is its own imaginary part.
        first = (imaginary + 2 * c.constant * real) @ length + c.constant**2 * length.sum()
        along = (real + c.constant) @ real_2 + imaginary @ imaginary_2
        across = imaginary @ real_2 - (real + c.constant) @ imaginary_2
        second = (coupling**2 + c.imaginary**2) * imaginary_2.sum()
        return (first + 2 * (coupling * along + c.imaginary * across) + second).log()

    def _strips(self) -> tuple[Tensor, Tensor]:
        """Nodes in m12^2 (k,); integrals of (1, Re BW_2, Im BW_2) over m13^2 at each, times weights, shape (3, k)."""
        low, high = _range(1, 2)
        angle = math.pi * (torch.arange(N_NODES, dtype=torch.float64) + 0.5) / N_NODES
        nodes = 0.5 * (low + high) - 0.5 * (high - low) * angle.cos()
        weights = 0.5 * (high - low) * angle.sin() * math.pi / N_NODES
        centre, half = _strip(nodes)
        squared_mass, mass_width = self.config.other_mass**2, self.config.other_mass * self.config.other_width
        left, right = centre - half - squared_mass, centre + half - squared_mass
        logarithm = 0.5 * mass_width * torch.log((left**2 + mass_width**2) / (right**2 + mass_width**2))
        arc = mass_width * (torch.atan(right / mass_width) - torch.atan(left / mass_width))
        return nodes, weights * torch.stack([2 * half, logarithm, arc])

    def _propose(self, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """From 3 (constant^2 + |BW_1|^2 + |c BW_2|^2) on the square around the boundary: Cauchy and Schwarz."""
        c = self.config
        (low_1, high_1), (low_2, high_2) = _range(1, 2), _range(2, 1)
        squared_1, width_1 = self._resonance(theta)
        squared_2, width_2 = torch.full_like(squared_1, c.other_mass**2), torch.full_like(squared_1, c.other_mass * c.other_width)
        from_1, arc_1 = _arc(low_1, high_1, squared_1, width_1)
        from_2, arc_2 = _arc(low_2, high_2, squared_2, width_2)
        strength = theta[:, 0] ** 2 + c.imaginary**2
        flat = torch.full_like(strength, c.constant**2 * (high_1 - low_1) * (high_2 - low_2))
        index = choose(
            torch.stack([flat, width_1 * arc_1 * (high_2 - low_2), strength * width_2 * arc_2 * (high_1 - low_1)], -1), generator
        )
        u, v = torch.rand(2, len(theta), generator=generator, dtype=torch.float64)
        m12 = torch.where(index == 1, squared_1 + width_1 * torch.tan(from_1 + u * arc_1), low_1 + (high_1 - low_1) * u)
        m13 = torch.where(index == 2, squared_2 + width_2 * torch.tan(from_2 + v * arc_2), low_2 + (high_2 - low_2) * v)
        # Rounded here, so that no event is moved over the boundary afterwards.
        x = torch.stack([m12, m13], -1).float().double()
        peaks = _breit_wigner(x[:, 0], squared_1, width_1)[1] + strength * _breit_wigner(x[:, 1], squared_2, width_2)[1]
        return x, torch.where(_inside(x), self._intensity(x, theta) / (3 * (c.constant**2 + peaks)), 0.0)


def _breit_wigner(s: Tensor, squared_mass: Tensor | float, mass_width: Tensor | float) -> tuple[Tensor, Tensor]:
    """Real and imaginary part; the latter is also the squared modulus."""
    pull = (squared_mass - s) / mass_width
    imaginary = 1 / (1 + pull**2)
    return pull * imaginary, imaginary


def _arc(low: float, high: float, squared_mass: Tensor, mass_width: Tensor) -> tuple[Tensor, Tensor]:
    """First angle, and range of angles, of the Cauchy law truncated to [low, high]."""
    first = torch.atan((low - squared_mass) / mass_width)
    return first, torch.atan((high - squared_mass) / mass_width) - first


def _range(partner: int, spectator: int) -> tuple[float, float]:
    """Smallest and largest squared mass of particle 1 and ``partner`` (0-based)."""
    return (DAUGHTERS[0] + DAUGHTERS[partner]) ** 2, (PARENT - DAUGHTERS[spectator]) ** 2


def _strip(m12: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half length of the range of m13^2 at m12^2 inside its range, each (n,)."""
    m1, m2, m3 = DAUGHTERS
    energies = (m12 + m1**2 - m2**2) * (PARENT**2 - m12 - m3**2)
    momenta = (m12 - (m1 + m2) ** 2) * (m12 - (m1 - m2) ** 2) * ((PARENT - m3) ** 2 - m12) * ((PARENT + m3) ** 2 - m12)
    return m1**2 + m3**2 + 0.5 * energies / m12, 0.5 * momenta.clamp(min=0).sqrt() / m12


def _inside(x: Tensor) -> Tensor:
    low, high = _range(1, 2)
    m12 = x[:, 0].clamp(low, high)
    centre, half = _strip(m12)
    return (x[:, 0] == m12) & ((x[:, 1] - centre).abs() <= half)


def _check(config: DalitzConfig) -> None:
    c = config
    check_positive("dalitz", mass=c.mass, width=c.width, other_mass=c.other_mass, other_width=c.other_width, fit_events=c.fit_events)
    # Narrower ones need more nodes: checked in the tests.
    if c.width < SMALLEST_WIDTH or c.other_width < SMALLEST_WIDTH:
        raise InputError(f"toy dalitz: expected widths of at least {SMALLEST_WIDTH:g} GeV; got {c.width:g} and {c.other_width:g}")


SMALLEST_WIDTH = 0.05

_PARAMETERS = ParameterSpace(
    (
        Parameter("coupling", "interest", 1.0, (-2.0, 2.0), Uniform(-2.0, 2.0), latex=r"\mathrm{Re}\,c"),
        Parameter("mass_shift", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        Parameter("width_shift", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
    )
)
