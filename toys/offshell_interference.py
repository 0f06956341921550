"""A toy of gg -> (H*) -> ZZ -> 4l above threshold (no LHC physics): signed interference, and two solutions in mu."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.helicities import BOSONS, LEPTONS, SHARES, angular_intensity, draw_cosines, rotations, squared_sum
from touchneedle.toys.mixture import check_positive, draw_labels, latent_truth
from touchneedle.toys.quadrature import gauss_legendre
from touchneedle.toys.rejection import choose, rejection_sample

__all__ = ["OffshellInterference", "OffshellInterferenceConfig"]

# In GeV; the slopes are those of luminosity and background, and that of mass proposals, chosen for speed.
HIGGS, BOSON, TRIANGLE, SLOPE, BACKGROUND_SLOPE, PROPOSAL_SLOPE = 125.0, 91.1876, 700.0, 95.0, 45.0, 160.0
SMALLEST_LOW, LARGEST_HIGH, REACH = 185.0, 2_000.0, 14.0
# The slope of sqrt(mu) has no bound at mu = 0.
SMALLEST_MU, LARGEST_MU = 0.01, 4.0
# Next float32 below pi, so that events stay in the support.
PI = 3.1415925


@dataclass
class OffshellInterferenceConfig:
    """Options; masses in GeV, angles in radians.

    Attributes:
        low: lower edge of the mass window.
        high: upper edge of the mass window.
        angle: phase of the continuum against the signal at nominal.
        background: yield of the background over the signal's at mu = 1.
        a: change of the phase per sigma of ``phase``.
        b: change of the log yield of the continuum per sigma of ``continuum``.
        c: change of the log yield of the background per sigma of ``background``.
        fit_events: expected events at nominal.
    """

    low: float = 190.0
    high: float = 1_000.0
    angle: float = 0.35
    background: float = 4.0
    a: float = 0.15
    b: float = 0.2
    c: float = 0.05
    fit_events: int = 1_000


class OffshellInterference(ExactToy):
    r"""p(x) ~ sum_l g_l \|sum_h [sqrt(mu) S_h(m) + k e^{i phi} B_h(m)] D_hl(x)\|^2 + background, x = (mass, cos1, cos2, azimuth).

    h = -1, 0, 1 is the helicity of both Z bosons, l those of the two leptons, unobserved, with shares g_l;
    D_hl = d^1_{h l1}(cos1) d^1_{h l2}(cos2) e^{i h azimuth} (Gao et al. 2010, arXiv:1001.3396). Schematic amplitudes: S has
    the far tail of the Higgs propagator, a form factor, and a longitudinal part that grows as m^2; the longitudinal part of B
    cancels it at high mass, as unitarity demands, the transverse one falls as m^-2. phi = angle + a phase,
    k^2 = exp(b continuum), and the background, qq -> ZZ in kind, has transverse bosons and the yield factor
    exp(c background). The D_hl are orthogonal, so that the yield, mu S + sqrt(mu) k cos(phi) I + k^2 B + background,
    needs integrals over the mass alone, once.

    The processes are those of ATLAS 2024 (arXiv:2412.01548): signal, signal and continuum at mu = 1, continuum and background,
    with rates (mu - sqrt mu), sqrt mu, (1 - sqrt mu) times their yields, and the background's. The latent variable of
    joint ratio and score is gluon fusion or background.

    Exposes: interference of either sign, which no mixture of positive processes describes, and a second maximum of the
    likelihood at a small mu, where the sum of amplitudes at high mass is about as large beyond its zero: not regular
    (Kauer and Passarino 2012, arXiv:1206.4803; Campbell, Ellis and Williams 2014, arXiv:1311.3589).
    """

    Config = OffshellInterferenceConfig
    regular = False

    def __init__(self, config: OffshellInterferenceConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("offshell_interference", "1", _PARAMETERS, _features(config), _PROCESSES)
        # As many because phase space begins with a square root just below the window.
        nodes, weights = gauss_legendre(240, config.low, config.high)
        signal, continuum = _amplitudes(nodes)
        self._signal = float(weights @ signal.square().sum(-1))
        self._interference = 2 * float(weights @ (signal * continuum).sum(-1)) / self._signal
        self._continuum = float(weights @ continuum.square().sum(-1)) / self._signal
        self._bounds = self._largest_amplitudes()

    def rates(self, theta: Tensor) -> Tensor:
        """Signed rates at theta (m, p), shape (m, 4); their sum is the positive expected yield."""
        root = theta[:, 0].double().sqrt()
        terms = torch.stack([root**2 - root, root, 1 - root, torch.ones_like(root)], -1) * self._yields(theta.double())
        nominal = self._yields(self.spec.parameters.nominal.to(theta.device).unsqueeze(0))
        return self.fit_events / (nominal[:, 1] + nominal[:, 3]) * terms

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        background = draw_labels(self._yields(theta)[:, 3] / self._total(theta), generator)
        x = torch.empty(len(theta), 4, dtype=torch.float64)
        x[background] = self._background_events(int(background.sum()), generator)
        x[~background] = self._gluon_events(theta[~background], generator)
        x[:, 0].clamp_(self.config.low, self.config.high)
        x[:, 3].clamp_(-PI, PI)
        x = x.float()
        log_ratio, score = latent_truth(partial(self._log_joint, x.double(), background), theta, self.spec.parameters.nominal)
        return Events(x, theta, torch.ones_like(theta[:, 0]), joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, x = self._inside(x)
        value = self._parts(x, theta).sum(-1).log() - self._total(theta).log()
        return torch.where(inside, value, -math.inf)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        inside, x = self._inside(x)
        one, none, size = torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0]), self._size(theta)
        gluon = [self._gluon_density(x, *pair, self._phase(theta)) for pair in ((one, none), (one, size), (none, size))]
        value = torch.stack([*gluon, self._background_density(x, theta)], -1) / self._yields(theta)
        return torch.where(inside.unsqueeze(-1), value.log(), -math.inf)

    def _log_joint(self, x: Tensor, background: Tensor, theta: Tensor) -> Tensor:
        """log p(x, z|theta), shape (n,), of events that are background (n,) or not."""
        gluon, other = self._parts(x, theta).unbind(-1)
        return torch.where(background, other, gluon).log() - self._total(theta).log()

    def _parts(self, x: Tensor, theta: Tensor) -> Tensor:
        """Differential yields of gluon fusion and background, in units of the signal's yield at mu = 1: shape (n, 2)."""
        gluon = self._gluon_density(x, theta[:, 0].sqrt(), self._size(theta), self._phase(theta))
        return torch.stack([gluon, self._background_density(x, theta)], -1)

    def _gluon_density(self, x: Tensor, root: Tensor, size: Tensor, phase: Tensor) -> Tensor:
        """Differential yield at sqrt(mu), k and phi, each (n,): shape (n,)."""
        return angular_intensity(*self._helicity_amplitudes(x[:, 0], root, size, phase), x[:, 1:])

    def _helicity_amplitudes(self, mass: Tensor, root: Tensor, size: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts of sqrt(mu) S_h + k e^{i phi} B_h, each (n, 3); their squares add up to the yield at a mass."""
        signal, continuum = (amplitude / math.sqrt(self._signal) for amplitude in _amplitudes(mass))
        continuum = size.unsqueeze(-1) * continuum
        return root.unsqueeze(-1) * signal + phase.cos().unsqueeze(-1) * continuum, phase.sin().unsqueeze(-1) * continuum

    def _yields(self, theta: Tensor) -> Tensor:
        """Yields of the four processes over the signal's at mu = 1, shape (n, 4)."""
        size = self._size(theta)
        continuum = size**2 * self._continuum
        both = 1 + size * self._phase(theta).cos() * self._interference + continuum
        background = self.config.background * torch.exp(self.config.c * theta[:, 3])
        return torch.stack([torch.ones_like(size), both, continuum, background], -1)

    def _total(self, theta: Tensor) -> Tensor:
        """Yield of all over the signal's at mu = 1, shape (n,)."""
        root, (_, both, continuum, background) = theta[:, 0].sqrt(), self._yields(theta).unbind(-1)
        return root**2 + root * (both - 1 - continuum) + continuum + background

    def _phase(self, theta: Tensor) -> Tensor:
        return self.config.angle + self.config.a * theta[:, 1]

    def _size(self, theta: Tensor) -> Tensor:
        return torch.exp(0.5 * self.config.b * theta[:, 2])

    def _background_density(self, x: Tensor, theta: Tensor) -> Tensor:
        """Differential yield of transverse bosons on a falling mass, shape (n,)."""
        c = self.config
        norm = BACKGROUND_SLOPE * -math.expm1(-(c.high - c.low) / BACKGROUND_SLOPE)
        angular = (9 / 64) * (1 + x[:, 1] ** 2) * (1 + x[:, 2] ** 2) / (2 * math.pi)
        return self._yields(theta)[:, 3] * angular * torch.exp(-(x[:, 0] - c.low) / BACKGROUND_SLOPE) / norm

    def _inside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whether x is in the support (n,), and x moved into it."""
        ends = [feature.support or (-math.inf, math.inf) for feature in self.spec.features]
        low, high = torch.tensor(ends, dtype=x.dtype, device=x.device).T
        return ((x >= low) & (x <= high)).all(-1), torch.minimum(torch.maximum(x, low), high)

    def _background_events(self, n: int, generator: torch.Generator) -> Tensor:
        u, turn = torch.rand(2, n, generator=generator, dtype=torch.float64)
        helicity = 2 * torch.randint(2, (n, 2), generator=generator).double() - 1
        mass = self._falling(u, BACKGROUND_SLOPE)
        return torch.cat([mass.unsqueeze(-1), draw_cosines(helicity, generator), math.pi * (2 * turn.unsqueeze(-1) - 1)], -1)

    def _gluon_events(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        mass = rejection_sample(theta, self._propose_mass, generator)
        return torch.cat([mass, rejection_sample(torch.cat([theta, mass], -1), self._propose_angles, generator)], -1)

    def _propose_mass(self, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """From an exponential above (1 + |cos phi|) (mu S^2 + k^2 B^2), as 2 |S B| <= S^2 + B^2."""
        mass = self._falling(torch.rand(len(theta), generator=generator, dtype=torch.float64), PROPOSAL_SLOPE)
        root, size, phase = theta[:, 0].sqrt(), self._size(theta), self._phase(theta)
        real, imaginary = self._helicity_amplitudes(mass, root, size, phase)
        signal, continuum = self._bounds
        bound = (1 + phase.cos().abs()) * (root**2 * signal + size**2 * continuum) * torch.exp(-mass / PROPOSAL_SLOPE)
        return mass.unsqueeze(-1), (real**2 + imaginary**2).sum(-1) / bound

    def _propose_angles(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of (theta, mass), from the incoherent sum over the three helicities, 1 / 3 of a bound of the coherent one."""
        theta, mass = rows[:, :-1], rows[:, -1]
        real, imaginary = self._helicity_amplitudes(mass, theta[:, 0].sqrt(), self._size(theta), self._phase(theta))
        helicity = BOSONS[choose(real**2 + imaginary**2, generator)]
        leptons = LEPTONS[choose(SHARES.expand(len(rows), -1), generator)]
        cosines = draw_cosines(helicity.unsqueeze(-1) * leptons, generator)
        azimuth = math.pi * (2 * torch.rand(len(rows), generator=generator, dtype=torch.float64) - 1)
        functions = rotations(cosines, leptons)
        coherent = squared_sum(real, imaginary, azimuth, functions.unsqueeze(1)).squeeze(-1)
        incoherent = ((real**2 + imaginary**2) * functions**2).sum(-1)
        return torch.cat([cosines, azimuth.unsqueeze(-1)], -1), coherent / (3 * incoherent)

    def _falling(self, u: Tensor, slope: float) -> Tensor:
        """Quantile of an exponential on the mass window."""
        return self.config.low - slope * torch.log1p(u * math.expm1(-(self.config.high - self.config.low) / slope))

    def _largest_amplitudes(self) -> tuple[float, float]:
        """Largest squares of S and B relative to the exponential, on a grid so fine that 0.1 % covers what lies between."""
        mass = torch.linspace(self.config.low, self.config.high, 10_001, dtype=torch.float64)
        squares = (a.square().sum(-1) * torch.exp(mass / PROPOSAL_SLOPE) / self._signal for a in _amplitudes(mass))
        signal, continuum = (1.001 * float(square.max()) for square in squares)
        return signal, continuum


def _amplitudes(mass: Tensor) -> tuple[Tensor, Tensor]:
    """S_h and B_h at mass (n,), times the root of luminosity and phase space: each (n, 3), real, in arbitrary units."""
    squared = mass**2
    flux = torch.sqrt(torch.sqrt(1 - 4 * BOSON**2 / squared) * torch.exp(-mass / SLOPE) / squared)
    form_factor = 1 / (1 + (mass / TRIANGLE) ** 2)
    growth = squared / (2 * BOSON**2) - 1
    # Above threshold the width of the Higgs boson does not matter.
    higgs = squared / (squared - HIGGS**2) * form_factor
    signal = torch.stack([higgs, -growth * higgs, higgs], -1)
    falling = (2 * BOSON) ** 2 / squared
    continuum = torch.stack([1.3 * falling, 0.66 * growth * form_factor * (1 + 60 / mass), 1.6 * falling], -1)
    return flux.unsqueeze(-1) * signal, flux.unsqueeze(-1) * continuum


def _check(config: OffshellInterferenceConfig) -> None:
    check_positive("offshell_interference", background=config.background, fit_events=config.fit_events)
    if not SMALLEST_LOW <= config.low < config.high <= LARGEST_HIGH:
        masses = f"{config.low:g} and {config.high:g}"
        raise InputError(f"toy offshell_interference: expected {SMALLEST_LOW:g} <= low < high <= {LARGEST_HIGH:g} GeV; got {masses}")


def _features(config: OffshellInterferenceConfig) -> tuple[Feature, ...]:
    return (
        Feature("mass", "GeV", "m_{4l}", support=(config.low, config.high)),
        Feature("cos1", latex=r"\cos\theta_1", support=(-1.0, 1.0)),
        Feature("cos2", latex=r"\cos\theta_2", support=(-1.0, 1.0)),
        Feature("azimuth", "rad", r"\phi", kind="periodic", support=(-math.pi, math.pi)),
    )


_PROCESSES = ("signal", "interfering", "continuum", "background")
_PARAMETERS = ParameterSpace(
    (
        Parameter("mu", "interest", 1.0, (SMALLEST_MU, LARGEST_MU), Uniform(SMALLEST_MU, LARGEST_MU), latex=r"\mu"),
        Parameter("phase", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        Parameter("continuum", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        Parameter("background", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
    )
)
