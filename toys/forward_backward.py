"""Muon pairs at an electron-positron collider: a small forward-backward asymmetry between acceptance edges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.normal_mass import log_normal_mass
from touchneedle.toys.rejection import draw_by_rejection

__all__ = ["ForwardBackward", "ForwardBackwardConfig"]

REACH = 14.0
LARGEST_ASYMMETRY = 0.75


@dataclass
class ForwardBackwardConfig:
    """Options.

    Attributes:
        asymmetry: nominal A_FB.
        misidentified: nominal probability w that the charge is misidentified.
        edge: nominal edge c0 of the acceptance in abs(cos theta).
        turn_off: width s over which the acceptance ends.
        a: change of the log odds of 2 w per sigma of ``misidentification``.
        b: change of the edge per sigma of ``acceptance``.
        fit_events: expected events at nominal.
    """

    asymmetry: float = 0.3
    misidentified: float = 0.05
    edge: float = 0.9
    turn_off: float = 0.02
    a: float = 0.5
    b: float = 0.004
    fit_events: int = 1_000


class ForwardBackward(ExactToy):
    """e+e- -> mu+mu-: the forward-backward asymmetry is measured, charge misidentification and acceptance edge are uncertain.

    p(c) = [3/8 (1 + c^2) + A_FB (1 - 2 w) c] eps(c) / Z for c = cos theta in [-1, 1], with
    eps(c) = Phi((c0 - c) / s) - Phi((-c0 - c) / s), 2 w = sigmoid(logit(2 w0) + a misidentification) and
    c0 = edge + b acceptance. The odd term drops out of Z, which is closed (`_accepted`) and, for s -> 0, equals
    3/4 (c0 + c0^3 / 3), that of a hard cut. A hard edge that moves with a nuisance would give events zero density at
    some theta, and no Wilks; so the acceptance ends within ``turn_off`` and the support is fixed. The yield follows Z.

    Exposes estimators that smear an edge or leak beyond it, and bias from an asymmetry that is a small tilt of the density.
    Source: lowest order QED with Z exchange, e.g. LEP electroweak working group 2005, arXiv:hep-ex/0509008, chapter 1.
    """

    Config = ForwardBackwardConfig

    def __init__(self, config: ForwardBackwardConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        feature = Feature("cos_theta", latex=r"\cos\theta", support=(-1.0, 1.0))
        self.spec = ToySpec("forward_backward", "1", _parameters(config.asymmetry), (feature,), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times the accepted share relative to nominal, at theta (m, p): shape (m, 1)."""
        nominal = self.spec.parameters.nominal.to(theta.device).unsqueeze(0)
        return self.fit_events * (self._accepted(theta.double()) / self._accepted(nominal)).unsqueeze(-1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        cosine = draw_by_rejection(self._acceptance, (-1.0,), (1.0,), theta, generator)
        return Events(cosine.float(), theta, torch.ones(len(theta), dtype=torch.float64))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        inside = x[:, 0].abs() <= 1
        cosine = x[:, 0].clamp(-1, 1)
        value = self._produced(cosine, theta).log() + self._log_efficiency(cosine, theta) - self._accepted(theta).log()
        return torch.where(inside, value, -math.inf)

    def _acceptance(self, x: Tensor, theta: Tensor) -> Tensor:
        """Density of produced events times efficiency, relative to its bound, which is that at abs(cos theta) = 1."""
        bound = 0.75 + self._tilt(theta).abs()
        return self._produced(x[:, 0], theta) * self._log_efficiency(x[:, 0], theta).exp() / bound

    def _produced(self, cosine: Tensor, theta: Tensor) -> Tensor:
        return 0.375 * (1 + cosine**2) + self._tilt(theta) * cosine

    def _tilt(self, theta: Tensor) -> Tensor:
        """A_FB (1 - 2 w), shape (n,)."""
        w = 2 * self.config.misidentified
        return theta[:, 0] * torch.sigmoid(math.log((1 - w) / w) - self.config.a * theta[:, 1])

    def _edge(self, theta: Tensor) -> Tensor:
        return self.config.edge + self.config.b * theta[:, 2]

    def _log_efficiency(self, cosine: Tensor, theta: Tensor) -> Tensor:
        edge, s = self._edge(theta), self.config.turn_off
        return log_normal_mass((-edge - cosine) / s, (edge - cosine) / s)

    def _accepted(self, theta: Tensor) -> Tensor:
        """Z = 1 - 3/4 J, with J = int (1 + c^2) Phi((c - c0) / s) dc over [-1, 1] by parts, shape (n,)."""
        edge, s = self._edge(theta), self.config.turn_off
        low, high = (-1 - edge) / s, (1 - edge) / s
        low_pdf, high_pdf = (torch.exp(-0.5 * y**2) / math.sqrt(2 * math.pi) for y in (low, high))
        low_cdf, high_cdf = torch.special.ndtr(low), torch.special.ndtr(high)
        m0 = high_cdf - low_cdf
        m1 = low_pdf - high_pdf
        m2 = m0 + low * low_pdf - high * high_pdf
        m3 = 2 * m1 + low**2 * low_pdf - high**2 * high_pdf
        # int (c + c^3 / 3) dPhi with c = c0 + s y; the boundary term is (4/3) [Phi(high) + Phi(low)].
        moments = edge * m0 + s * m1 + (edge**3 * m0 + 3 * edge**2 * s * m1 + 3 * edge * s**2 * m2 + s**3 * m3) / 3
        return 1 - 0.75 * (4 / 3 * (high_cdf + low_cdf) - moments)


def _check(config: ForwardBackwardConfig) -> None:
    check_positive("forward_backward", turn_off=config.turn_off, fit_events=config.fit_events)
    if not abs(config.asymmetry) < LARGEST_ASYMMETRY:
        raise InputError(f"toy forward_backward: option asymmetry: expected a value between -0.75 and 0.75; got {config.asymmetry:g}")
    if not 0 < config.misidentified < 0.5:
        raise InputError(f"toy forward_backward: option misidentified: expected a value between 0 and 0.5; got {config.misidentified:g}")
    reach = REACH * abs(config.b)
    if not (reach < config.edge < 1 - reach):
        raise InputError(f"toy forward_backward: option edge: expected a value between {reach:g} and {1 - reach:g}; got {config.edge:g}")


def _parameters(asymmetry: float) -> ParameterSpace:
    edges = (-LARGEST_ASYMMETRY, LARGEST_ASYMMETRY)
    return ParameterSpace(
        (
            Parameter("asymmetry", "interest", asymmetry, edges, Uniform(*edges), latex=r"A_\mathrm{FB}"),
            Parameter("misidentification", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("acceptance", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
