"""Two moons: thin crescents and a bimodal posterior, the stress test of sbibm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["TwoMoons", "TwoMoonsConfig"]

OFFSET = 0.25


@dataclass
class TwoMoonsConfig:
    """Options.

    Attributes:
        radius: mean radius of the crescent.
        radius_std: standard deviation of the radius.
        fit_events: expected events.
    """

    radius: float = 0.1
    radius_std: float = 0.01
    fit_events: int = 1_000


class TwoMoons(ExactToy):
    r"""x = r (cos a, sin a) + (1/4, 0) + (-\|t1 + t2\|, t2 - t1) / sqrt 2, r ~ N(0.1, 0.01^2), a ~ U(-pi/2, pi/2).

    With z = x - (the two shifts): p(x|theta) = N(\|z\|; 0.1, 0.01) / (pi \|z\|) for z_1 > 0, else 0
    (Greenberg et al. 2019, arXiv:1905.07488; Lueckmann et al. 2021, arXiv:2101.04653, T.8).
    A negative radius, whose events the formula leaves out, has probability 8e-24 (10 sigma).

    Not regular: two equal maxima, mirrored at t1 + t2 = 0, where the likelihood has a kink, and a
    support whose straight edge moves with theta.
    """

    Config = TwoMoonsConfig
    regular = False

    def __init__(self, config: TwoMoonsConfig) -> None:
        check_positive("two_moons", radius=config.radius, radius_std=config.radius_std, fit_events=config.fit_events)
        if config.radius < 8 * config.radius_std:
            raise InputError(f"toy two_moons: expected radius >= 8 radius_std; got {config.radius:g} and {config.radius_std:g}")
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("two_moons", "1", _PARAMETERS, (Feature("x1"), Feature("x2")), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        angle = math.pi * (torch.rand(len(theta), generator=generator, dtype=torch.float64) - 0.5)
        noise = torch.randn(len(theta), generator=generator, dtype=torch.float64)
        radius = self.config.radius + self.config.radius_std * noise
        crescent = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return Events((crescent + _centre(theta)).float(), theta, torch.ones_like(radius))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        z = x - _centre(theta)
        inside = z[:, 0] > 0
        # Outside, the gradient of the norm at z = 0 would be NaN and leak through torch.where.
        radius = torch.where(inside.unsqueeze(-1), z, torch.ones_like(z)).norm(dim=-1)
        pull = (radius - self.config.radius) / self.config.radius_std
        log_norm = math.log(self.config.radius_std * math.sqrt(2 * math.pi) * math.pi)
        return torch.where(inside, -0.5 * pull**2 - radius.log() - log_norm, -math.inf)


def _centre(theta: Tensor) -> Tensor:
    """Centre of the crescent's circle, shape (n, 2)."""
    t1, t2 = theta.unbind(-1)
    return torch.stack([OFFSET - (t1 + t2).abs() / math.sqrt(2), (t2 - t1) / math.sqrt(2)], -1)


_PARAMETERS = ParameterSpace(
    (
        Parameter("theta_1", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta_1"),
        Parameter("theta_2", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta_2"),
    )
)
