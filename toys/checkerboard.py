"""A checkerboard with blurred edges: eight separate squares whose rotation is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive
from touchneedle.toys.normal_mass import log_normal_mass

__all__ = ["Checkerboard", "CheckerboardConfig"]

SIDE, N_SIDE = 2.0, 4
# Lower left corners of the dark squares (8, 2).
CORNERS = tuple((SIDE * (i - 2), SIDE * (j - 2)) for i in range(N_SIDE) for j in range(N_SIDE) if (i + j) % 2 == 0)


@dataclass
class CheckerboardConfig:
    """Options.

    Attributes:
        blur: standard deviation of the Gaussian smearing of the edges at nominal; squares have side 2.
        a: change of the log size of the board per sigma of ``scale``.
        b: change of the log blur per sigma of ``resolution``.
        fit_events: expected events.
    """

    blur: float = 0.15
    a: float = 0.01
    b: float = 0.2
    fit_events: int = 1_000


class Checkerboard(ExactToy):
    """x = Rotation(angle) [exp(a scale) u + s z], u uniform on 8 of 16 squares of side 2, z ~ N(0, 1)^2, s = blur exp(b resolution).

    With y = Rotation(-angle) x: p(x) = 1/8 sum over squares of prod over y1, y2 of [Phi((high - y)/s) - Phi((low - y)/s)] / side.
    Without blur the entropy is log 32. The blur keeps the support the whole plane and the density smooth in theta, so that
    the toy is regular; a turn by 90 degrees exchanges dark and light, one by 180 is the identity, hence |angle| <= pi/4.

    Exposes: disconnected regions (bridges between squares), steps, and angles learned from edges alone.
    """

    Config = CheckerboardConfig

    def __init__(self, config: CheckerboardConfig) -> None:
        check_positive("checkerboard", blur=config.blur, fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("checkerboard", "1", _PARAMETERS, (Feature("x1"), Feature("x2")), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        square = torch.randint(len(CORNERS), (len(theta),), generator=generator)
        u = SIDE * torch.rand(len(theta), 2, generator=generator, dtype=torch.float64)
        z = torch.randn(len(theta), 2, generator=generator, dtype=torch.float64)
        log_size, log_blur = self._logs(theta)
        y = log_size.exp() * (theta.new_tensor(CORNERS)[square] + u) + log_blur.exp() * z
        return Events(_rotate(y, theta[:, 0]).float(), theta, torch.ones_like(theta[:, 0]))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        log_size, log_blur = self._logs(theta)
        y = _rotate(x, -theta[:, 0])
        # Mass of the smeared columns in y1 and rows in y2: (n, 2, 4).
        low = theta.new_tensor([SIDE * (i - 2) for i in range(N_SIDE)]) * log_size.exp().unsqueeze(-1)
        below = (low - y.unsqueeze(-1)) * torch.exp(-log_blur).unsqueeze(-1)
        width = SIDE * torch.exp(log_size - log_blur).unsqueeze(-1)
        log_mass = log_normal_mass(below, below + width)
        # A dark square is an even column and an even row, or an odd column and an odd row.
        even, odd = (log_mass[..., i::2].logsumexp(-1).sum(-1) for i in (0, 1))
        return torch.logaddexp(even, odd) - math.log(len(CORNERS) * SIDE**2) - 2 * log_size.squeeze(-1)

    def _logs(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log size of the board and log blur, each (n, 1)."""
        return self.config.a * theta[:, 1:2], math.log(self.config.blur) + self.config.b * theta[:, 2:]


def _rotate(y: Tensor, angle: Tensor) -> Tensor:
    """Points (n, 2) turned anticlockwise by ``angle`` (n,)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * y[:, 0] - sin * y[:, 1], sin * y[:, 0] + cos * y[:, 1]], -1)


_QUARTER = math.pi / 4
_PARAMETERS = ParameterSpace(
    (
        Parameter("angle", "interest", 0.0, (-_QUARTER, _QUARTER), Uniform(-_QUARTER, _QUARTER), unit="rad", latex=r"\theta"),
        Parameter("scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_1"),
        Parameter("resolution", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_2"),
    )
)
