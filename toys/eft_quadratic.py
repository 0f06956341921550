"""Effective field theory: up to ten Wilson coefficients, a density quadratic in all of them, mined gold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive, joint_truth
from touchneedle.toys.rejection import choose, rejection_sample

__all__ = ["EftQuadratic", "EftQuadraticConfig"]

HELICITIES = (-1.0, 1.0)
MAX_COEFFICIENTS = 10
# Standard deviations of E and E^2 / sqrt 24 under Exp(1) make every operator of order one.
ENERGY_SCALES = (1 / math.sqrt(2), 1 / math.sqrt(24))
_FACTORIALS = torch.tensor([1.0, 1.0, 2.0, 6.0, 24.0], dtype=torch.float64)


@dataclass
class EftQuadraticConfig:
    """Options.

    Attributes:
        coefficients: number of Wilson coefficients, 1 to 10.
        absorptive: imaginary part eta of the Standard Model amplitude; it keeps the density positive.
        a: change of the log energy per sigma of ``energy_scale``.
        b: change of the log Standard Model amplitude per sigma of ``amplitude``.
        fit_events: expected events at nominal.
    """

    coefficients: int = 2
    absorptive: float = 0.5
    a: float = 0.02
    b: float = 0.03
    fit_events: int = 1_000


class EftQuadratic(ExactToy):
    r"""p(x) = sum_h \|M_h(x; c)\|^2 p_ref(x) / sigma(c), x = (energy, cosine, azimuth), helicity h = -1, 1 unobserved.

    M_h = e^{b nu} (1 + h cosine + i eta) + sum_i c_i O_i, with operators O_i = E / sqrt 2 (i <= 5) or E^2 / sqrt 24 times
    (1, h cosine, sine cos azimuth, h sine sin azimuth, cosine^2); p_ref = Exp(E; 1) / (4 pi), energy = E exp(a nu').
    Rates are sigma_h(c), a quadratic form from one matrix of integrals over p_ref, exact by Gauss quadrature.
    The helicity is the latent variable of joint ratio and joint score (Brehmer et al. 2018, arXiv:1805.00020).

    Exposes: tails that grow as c^2 E^4 where the reference has few events, nearly flat directions among many
    coefficients, shape and rate that move together, estimators that do not average joint scores.
    """

    Config = EftQuadraticConfig

    def __init__(self, config: EftQuadraticConfig) -> None:
        check_positive("eft_quadratic", absorptive=config.absorptive, fit_events=config.fit_events)
        if not 1 <= config.coefficients <= MAX_COEFFICIENTS:
            raise InputError(f"toy eft_quadratic: option coefficients: expected 1 to {MAX_COEFFICIENTS}; got {config.coefficients}")
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("eft_quadratic", "1", _parameters(config.coefficients), _FEATURES, ("minus", "plus"))
        self._integrals = torch.stack([_integrals(h, config.coefficients) for h in HELICITIES])

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times sigma_h(c) / sigma(0) at theta (m, p): shape (m, 2)."""
        nominal = self._cross_sections(self._couplings(self.spec.parameters.nominal.to(theta.device).unsqueeze(0)))
        return self.fit_events * self._cross_sections(self._couplings(theta.double())) / nominal.sum()

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        drawn = rejection_sample(theta, self._propose, generator)
        x, label = drawn[:, :3].float(), drawn[:, 3].long()
        # Rounding must not move an event out of the support.
        edge = torch.tensor(math.pi).nextafter(torch.tensor(0.0))
        x = torch.stack([x[:, 0].clamp(min=1e-38), x[:, 1], x[:, 2].clamp(-edge, edge)], -1)
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(theta[:, 0]), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        squares, log_reference = self._parts(x, theta)
        sigma = self._cross_sections(self._couplings(theta))
        return squares.sum(-1).log() + log_reference - sigma.sum(-1).log()

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        squares, log_reference = self._parts(x, theta)
        sigma = self._cross_sections(self._couplings(theta))
        return squares.log() + log_reference.unsqueeze(-1) - sigma.log()

    def _parts(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Squared amplitudes (n, 2) and the log reference density (n,), -inf outside the support."""
        inside = (x[:, 0] >= 0) & (x[:, 1].abs() <= 1) & (x[:, 2].abs() <= math.pi)
        x = torch.where(inside.unsqueeze(-1), x, torch.zeros_like(x))
        log_scale = self.config.a * theta[:, -2]
        energy = x[:, 0] * torch.exp(-log_scale)
        couplings = self._couplings(theta)
        squares = torch.stack([self._square(energy, x[:, 1], x[:, 2], torch.full_like(energy, h), couplings) for h in HELICITIES], -1)
        return squares, torch.where(inside, -energy - log_scale - math.log(4 * math.pi), -math.inf)

    def _couplings(self, theta: Tensor) -> Tensor:
        """(Standard Model amplitude, c_1 .. c_k), shape (n, k + 1)."""
        return torch.cat([torch.exp(self.config.b * theta[:, -1:]), theta[:, :-2]], -1)

    def _square(self, energy: Tensor, cosine: Tensor, azimuth: Tensor, helicity: Tensor, couplings: Tensor) -> Tensor:
        """Squared amplitude, shape (n,)."""
        operators = _operators(energy, cosine, azimuth, helicity, self.config.coefficients)
        return (couplings * operators).sum(-1) ** 2 + (self.config.absorptive * couplings[:, 0]) ** 2

    def _cross_sections(self, couplings: Tensor) -> Tensor:
        """Integrals of the squared amplitudes over the reference, shape (n, 2)."""
        forms = torch.einsum("ni,hij,nj->nh", couplings, self._integrals.to(couplings.device), couplings)
        return forms + (self.config.absorptive * couplings[:, :1]) ** 2

    def _propose(self, theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(energy, cosine, azimuth, helicity index) from an envelope that is a polynomial in E times Exp(E; 1)."""
        couplings = self._couplings(theta)
        envelope = self._envelope(couplings)
        power = choose(envelope * _FACTORIALS, generator)
        # E^k exp(-E) is a Gamma density: the sum of k + 1 exponential variables.
        steps = -torch.log1p(-torch.rand(len(theta), len(_FACTORIALS), generator=generator, dtype=torch.float64))
        energy = steps.cumsum(-1).gather(-1, power.unsqueeze(-1)).squeeze(-1)
        cosine, turn, coin = torch.rand(3, len(theta), generator=generator, dtype=torch.float64)
        cosine, azimuth, index = 2 * cosine - 1, math.pi * (2 * turn - 1), (coin < 0.5).double()
        square = self._square(energy, cosine, azimuth, 2 * index - 1, couplings)
        bound = (envelope * energy.unsqueeze(-1) ** torch.arange(len(_FACTORIALS))).sum(-1)
        return torch.stack([energy * torch.exp(self.config.a * theta[:, -2]), cosine, azimuth, index], -1), square / bound

    def _envelope(self, couplings: Tensor) -> Tensor:
        """Coefficients (n, 5) of powers of E in (2 v_0 + A_1 E + A_2 E^2)^2 + (eta v_0)^2 >= any squared amplitude."""
        size = couplings.abs()
        constant = 2 * size[:, 0]
        linear, square = ENERGY_SCALES[0] * size[:, 1:6].sum(-1), ENERGY_SCALES[1] * size[:, 6:].sum(-1)
        absorptive = (self.config.absorptive * size[:, 0]) ** 2
        powers = [constant**2 + absorptive, 2 * constant * linear, linear**2 + 2 * constant * square, 2 * linear * square, square**2]
        return torch.stack(powers, -1)


def _operators(energy: Tensor, cosine: Tensor, azimuth: Tensor, helicity: Tensor, count: int) -> Tensor:
    """Real amplitudes of the Standard Model and of the first ``count`` operators, shape (n, count + 1)."""
    sine = torch.sqrt(1 - cosine**2)
    angular = torch.stack(
        [torch.ones_like(cosine), helicity * cosine, sine * azimuth.cos(), helicity * sine * azimuth.sin(), cosine**2], -1
    )
    growing = [ENERGY_SCALES[0] * energy, ENERGY_SCALES[1] * energy**2]
    columns = torch.cat([power.unsqueeze(-1) * angular for power in growing], -1)
    return torch.cat([(1 + helicity * cosine).unsqueeze(-1), columns[:, :count]], -1)


def _integrals(helicity: float, count: int) -> Tensor:
    """E_ref[O_i O_j], shape (count + 1, count + 1); the Gauss rules are exact for these polynomials."""
    energy, cosine = np.polynomial.laguerre.laggauss(4), np.polynomial.legendre.leggauss(6)
    azimuth = 2 * math.pi * np.arange(6) / 6
    grid = torch.cartesian_prod(*(torch.from_numpy(nodes) for nodes in (energy[0], cosine[0], azimuth)))
    shares = (energy[1], cosine[1] / 2, np.full(6, 1 / 6))
    weight = torch.cartesian_prod(*(torch.from_numpy(share) for share in shares)).prod(-1)
    e, c, f = grid.T
    operators = _operators(e, c, f, torch.full_like(weight, helicity), count)
    return operators.T @ (weight.unsqueeze(-1) * operators)


_FEATURES = (
    Feature("energy", "TeV", "E", support=(0.0, math.inf)),
    Feature("cosine", latex=r"\cos\theta", support=(-1.0, 1.0)),
    Feature("azimuth", "rad", r"\phi", kind="periodic", support=(-math.pi, math.pi)),
)


def _parameters(count: int) -> ParameterSpace:
    coefficients = (Parameter(f"c_{i}", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=f"c_{{{i}}}") for i in range(1, count + 1))
    return ParameterSpace(
        (
            *coefficients,
            Parameter("energy_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("amplitude", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
