"""Events close to a plane: a conserved sum of momenta, measured almost exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["NearManifold", "NearManifoldConfig"]

# Events are float32: below this thickness their rounding would show.
THINNEST = 1e-4


@dataclass
class NearManifoldConfig:
    """Options.

    Attributes:
        t: standard deviation of the events across the plane, 1e-4 to 1.
        a: shift across the plane per sigma of ``offset``, in units of t.
        b: change of the log standard deviation across the plane per sigma of ``log_resolution``.
        fit_events: expected events.
    """

    t: float = 0.03
    a: float = 0.05
    b: float = 0.1
    fit_events: int = 1_000


class NearManifold(ExactToy):
    """x = (p1, p2, p1 + p2 + e), p1 ~ N(momentum, 1), p2 ~ N(0, 1), e ~ N(t (imbalance + a offset), t^2 exp(2 b log_resolution)).

    ``momentum`` moves events along the plane x3 = x1 + x2, ``imbalance`` across it. The condition
    number of the covariance is about 9 / t^2, 9e6 at t = 1e-3; log p is computed from e, never from it.

    Exposes methods that see the plane but not its thickness (``momentum`` right, ``imbalance`` lost),
    standardisation feature by feature, and float32, in which the covariance is singular at 1e-4.
    """

    Config = NearManifoldConfig

    def __init__(self, config: NearManifoldConfig) -> None:
        check_positive("near_manifold", t=config.t, a=config.a, b=config.b, fit_events=config.fit_events)
        if not THINNEST <= config.t <= 1:
            raise InputError(f"toy near_manifold: option t: expected {THINNEST:g} to 1 (events are float32); got {config.t:g}")
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("near_manifold", "1", _PARAMETERS, tuple(Feature(name) for name in ("p1", "p2", "total")), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        noise = torch.randn(len(theta), 3, generator=generator, dtype=torch.float64)
        # Rounded before they are added, so that only the rounding of the sum moves e.
        p1, p2 = (theta[:, 0] + noise[:, 0]).float().double(), noise[:, 1].float().double()
        mean, log_std = self._across(theta)
        x = torch.stack([p1, p2, p1 + p2 + mean + log_std.exp() * noise[:, 2]], -1)
        return Events(x.float(), theta, torch.ones_like(p1))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        p1, p2, total = x.unbind(-1)
        mean, log_std = self._across(theta)
        across = (total - p1 - p2 - mean) * torch.exp(-log_std)
        return -0.5 * ((p1 - theta[:, 0]) ** 2 + p2**2 + across**2) - log_std - 1.5 * math.log(2 * math.pi)

    def _across(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of e, each (n,)."""
        _, imbalance, offset, log_resolution = theta.unbind(-1)
        return self.config.t * (imbalance + self.config.a * offset), math.log(self.config.t) + self.config.b * log_resolution


_PARAMETERS = ParameterSpace(
    (
        Parameter("momentum", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta_1"),
        Parameter("imbalance", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta_2"),
        Parameter("offset", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_1"),
        Parameter("log_resolution", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_2"),
    )
)
