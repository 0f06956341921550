"""A Gaussian whose location is measured: the smallest toy with nuisance parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["GaussianShift", "GaussianShiftConfig"]


@dataclass
class GaussianShiftConfig:
    """Options.

    Attributes:
        s0: standard deviation at nominal.
        a: change of the location per sigma of ``offset``.
        b: change of the log standard deviation per sigma of ``log_scale``.
        fit_events: expected events.
    """

    s0: float = 1.0
    a: float = 0.05
    b: float = 0.1
    fit_events: int = 1_000


class GaussianShift(ExactToy):
    """x ~ N(shift + a offset, s0^2 exp(2 b log_scale)); a single process at a constant rate."""

    Config = GaussianShiftConfig

    def __init__(self, config: GaussianShiftConfig) -> None:
        check_positive("gaussian_shift", s0=config.s0, fit_events=config.fit_events)
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("gaussian_shift", "1", _PARAMETERS, (Feature("x"),), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        mean, log_std = self._moments(theta)
        x = mean + log_std.exp() * torch.randn(len(theta), generator=generator, dtype=torch.float64)
        return Events(x.unsqueeze(-1).float(), theta, torch.ones_like(x))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        mean, log_std = self._moments(theta)
        z = (x[:, 0] - mean) * torch.exp(-log_std)
        return -0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_prob(x, theta).unsqueeze(-1)

    def _moments(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each (n,)."""
        shift, offset, log_scale = theta.unbind(-1)
        return shift + self.config.a * offset, math.log(self.config.s0) + self.config.b * log_scale


_PARAMETERS = ParameterSpace(
    (
        Parameter("shift", "interest", 0.0, (-2.0, 2.0), Uniform(-1.0, 1.0), latex=r"\theta"),
        Parameter("offset", "nuisance", 0.0, (-5.0, 5.0), Uniform(-3.0, 3.0), GaussianConstraint(1.0), latex=r"\nu_1"),
        Parameter("log_scale", "nuisance", 0.0, (-5.0, 5.0), Uniform(-3.0, 3.0), GaussianConstraint(1.0), latex=r"\nu_2"),
    )
)
