"""Angles of leptons from a Z boson: eight few-percent harmonics on a smooth density, one angle periodic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.rejection import draw_by_rejection

__all__ = ["DrellYanAngular", "DrellYanAngularConfig"]

REACH = 14.0
LARGEST_A4 = 0.9
# Next float32 below pi, so that events stay in the support.
PI = 3.1415925


@dataclass
class DrellYanAngularConfig:
    """Options.

    Attributes:
        coefficients: nominal A_0 to A_7, without dilution.
        dilution: nominal D by which A_3 and A_4 shrink, as the direction of the quark is not known.
        a: change of log A_0, A_1 and A_2 per sigma of ``recoil``.
        b: change of the log odds of D per sigma of ``dilution``.
        fit_events: expected events.
    """

    coefficients: list[float] = field(default_factory=lambda: [0.10, 0.03, 0.08, 0.02, 0.20, 0.005, 0.005, 0.005])
    dilution: float = 0.7
    a: float = 0.1
    b: float = 0.15
    fit_events: int = 10_000


class DrellYanAngular(ExactToy):
    """Lepton angles in pp -> Z -> l+l-: A_4 is measured, the recoil of the Z and the dilution are uncertain.

    With c = cos theta, s = sin theta, in the Collins-Soper frame,
    p(c, phi) = 3 / (16 pi) [1 + c^2 + A_0 (1 - 3 c^2) / 2 + A_1 2 s c cos phi + A_2 s^2 cos(2 phi) / 2 + A_3 s cos phi
    + A_4 c + A_5 s^2 sin(2 phi) + A_6 2 s c sin phi + A_7 s sin phi] on [-1, 1] x [-pi, pi), which integrates to 1
    whatever the A_i. ``recoil`` multiplies A_0, A_1 and A_2 by exp(a recoil), as it follows the boson's momentum;
    ``dilution`` multiplies A_3 and A_4 by D = sigmoid(logit(D_0) + b dilution).
    Written n^T S n + v n in the unit vector n, the bracket is at least (least eigenvalue of S) - norm(v), concave in the
    A_i; so positivity at the corners of the box, which the constructor checks, is positivity everywhere.

    Exposes a cut of a periodic angle, and training noise that buries a few percent of structure on a flat density.
    Source: Collins and Soper 1977, Phys. Rev. D 16, 2219; ATLAS 2016, arXiv:1606.00689, eq. 1.
    """

    Config = DrellYanAngularConfig

    def __init__(self, config: DrellYanAngularConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        cosine = Feature("cos_theta", latex=r"\cos\theta", support=(-1.0, 1.0))
        azimuth = Feature("phi", "rad", r"\phi", kind="periodic", support=(-math.pi, math.pi))
        self.spec = ToySpec("drell_yan_angular", "1", _parameters(config.coefficients[4]), (cosine, azimuth), ("all",))
        self._check_positive()

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        x = draw_by_rejection(self._acceptance, (-1.0, -math.pi), (1.0, math.pi), theta, generator)
        x[:, 1].clamp_(-PI, PI)
        return Events(x.float(), theta, torch.ones(len(theta), dtype=torch.float64))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        cosine, phi = x.unbind(-1)
        inside = (cosine.abs() <= 1) & (phi.abs() <= math.pi)
        value = torch.log(3 / (16 * math.pi) * self._bracket(x, theta))
        return torch.where(inside, value, -math.inf)

    def _acceptance(self, x: Tensor, theta: Tensor) -> Tensor:
        """The bracket relative to a bound: no harmonic exceeds 1 in size, and 1 + c^2 no 2."""
        return self._bracket(x, theta) / (2 + self._coefficients(theta).abs().sum(-1))

    def _bracket(self, x: Tensor, theta: Tensor) -> Tensor:
        return 1 + x[:, 0].clamp(-1, 1) ** 2 + (self._coefficients(theta) * harmonics(x)).sum(-1)

    def _coefficients(self, theta: Tensor) -> Tensor:
        """A_0 to A_7 (n, 8)."""
        c = self.config
        nominal = torch.tensor(c.coefficients, dtype=theta.dtype, device=theta.device)
        recoil = torch.exp(c.a * theta[:, 1:2])
        dilution = torch.sigmoid(math.log(c.dilution / (1 - c.dilution)) + c.b * theta[:, 2:3])
        rest = nominal[5:].expand(len(theta), -1)
        return torch.cat([nominal[:3] * recoil, nominal[3:4] * dilution, theta[:, :1] * dilution, rest], -1)

    def _check_positive(self) -> None:
        space = self.spec.parameters
        corners = torch.cartesian_prod(*torch.stack([space.low, space.high], -1))
        least = _least_bracket(self._coefficients(corners)).min().item()
        if not least > 0:
            raise InputError(
                "toy drell_yan_angular: option coefficients: expected a density that stays positive over the parameters; "
                f"its bound falls to {least:.3g}; choose smaller ones"
            )


def harmonics(x: Tensor) -> Tensor:
    """What A_0 to A_7 multiply, at x = (cos theta, phi) (n, 2): shape (n, 8)."""
    cosine, phi = x[:, 0].clamp(-1, 1), x[:, 1]
    sine = torch.sqrt(1 - cosine**2)
    terms = [
        0.5 * (1 - 3 * cosine**2),
        2 * sine * cosine * phi.cos(),
        0.5 * sine**2 * torch.cos(2 * phi),
        sine * phi.cos(),
        cosine,
        sine**2 * torch.sin(2 * phi),
        2 * sine * cosine * phi.sin(),
        sine * phi.sin(),
    ]
    return torch.stack(terms, -1)


def _least_bracket(coefficients: Tensor) -> Tensor:
    """Lower bound of the bracket for A_0 to A_7 (n, 8), the least eigenvalue of S minus the length of v: shape (n,)."""
    a0, a1, a2, a3, a4, a5, a6, a7 = coefficients.unbind(-1)
    entries = [1 + (a0 + a2) / 2, a5, a1, a5, 1 + (a0 - a2) / 2, a6, a1, a6, 2 - a0]
    matrix = torch.stack(entries, -1).reshape(-1, 3, 3)
    return torch.linalg.eigvalsh(matrix)[:, 0] - torch.stack([a3, a7, a4], -1).norm(dim=-1)


def _check(config: DrellYanAngularConfig) -> None:
    check_positive("drell_yan_angular", fit_events=config.fit_events)
    if len(config.coefficients) != 8 or not all(math.isfinite(value) for value in config.coefficients):
        raise InputError(f"toy drell_yan_angular: option coefficients: expected eight numbers, A_0 to A_7; got {config.coefficients}")
    if not abs(config.coefficients[4]) < LARGEST_A4:
        raise InputError(f"toy drell_yan_angular: option coefficients: expected A_4 between -0.9 and 0.9; got {config.coefficients[4]:g}")
    if not 0 < config.dilution < 1:
        raise InputError(f"toy drell_yan_angular: option dilution: expected a value between 0 and 1; got {config.dilution:g}")


def _parameters(a4: float) -> ParameterSpace:
    edges = (-LARGEST_A4, LARGEST_A4)
    return ParameterSpace(
        (
            Parameter("a4", "interest", a4, edges, Uniform(*edges), latex="A_4"),
            Parameter("recoil", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
            Parameter("dilution", "nuisance", 0.0, (-REACH, REACH), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
