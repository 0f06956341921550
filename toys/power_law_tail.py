"""Power-law tails in two dimensions: a bivariate Student t whose tail index is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["PowerLawTail", "PowerLawTailConfig"]

SMALLEST_INDEX, LARGEST_INDEX = 1.0, 8.0


@dataclass
class PowerLawTailConfig:
    """Options.

    Attributes:
        index: nominal tail index k, 1 to 8.
        b: change of the log scale per sigma of ``log_scale``.
        fit_events: expected events.
    """

    index: float = 3.0
    b: float = 0.1
    fit_events: int = 1_000


class PowerLawTail(ExactToy):
    """p(x) = (1 + r^2 / (k s^2))^-(k/2 + 1) / (2 pi s^2), r = sqrt(x1^2 + x2^2), s = exp(b log_scale); k is of interest.

    The chance of a radius beyond r falls as r^-k: no variance for k <= 2, no mean for k = 1, and both features are
    extreme together (a correlation of zero, but tail dependence). The ratio of k_b to k_a has infinite variance
    under k_a for 2 k_b <= k_a. A single process at a constant rate.

    Exposes: flows with a Gaussian base or linear spline tails, which give wrong extreme quantiles (Jaini et al. 2020,
    arXiv:1907.04481); standardisation by moments that do not exist; averages of ratios without a standard error.
    """

    Config = PowerLawTailConfig

    def __init__(self, config: PowerLawTailConfig) -> None:
        check_positive("power_law_tail", fit_events=config.fit_events)
        if not SMALLEST_INDEX < config.index < LARGEST_INDEX:
            raise InputError(f"toy power_law_tail: option index: expected a value between 1 and 8; got {config.index:g}")
        self.config = config
        self.fit_events = config.fit_events
        self.spec = ToySpec("power_law_tail", "1", _parameters(config.index), (Feature("x1"), Feature("x2")), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        index, log_scale = theta[:, 0], self.config.b * theta[:, 1]
        u, turn = torch.rand(2, len(theta), generator=generator, dtype=torch.float64)
        # P(radius > r) = (1 + r^2 / (k s^2))^(-k/2) is uniform.
        radius = log_scale.exp() * torch.sqrt(index * torch.expm1(-2 / index * torch.log1p(-u)))
        angle = 2 * math.pi * turn
        x = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return Events(x.float(), theta, torch.ones_like(radius))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        index, log_scale = theta[:, 0], self.config.b * theta[:, 1]
        squared = x.square().sum(-1) * torch.exp(-2 * log_scale)
        return -(0.5 * index + 1) * torch.log1p(squared / index) - 2 * log_scale - math.log(2 * math.pi)

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_prob(x, theta).unsqueeze(-1)


def _parameters(index: float) -> ParameterSpace:
    bounds = (SMALLEST_INDEX, LARGEST_INDEX)
    return ParameterSpace(
        (
            Parameter("index", "interest", index, bounds, Uniform(*bounds), latex="k"),
            Parameter("log_scale", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0)),
        )
    )
