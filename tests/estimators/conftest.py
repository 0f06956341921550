"""A toy with everything known by hand: a one-dimensional Gaussian whose location has a nuisance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec

SHIFT = 0.3


@dataclass
class LocationConfig:
    """No options."""


class LocationToy(ExactToy):
    """x ~ N(mu + 0.3 nu, 1)."""

    Config = LocationConfig
    fit_events = 100

    def __init__(self) -> None:
        mu = Parameter("mu", "interest", 0.0, (-10.0, 10.0), Normal(0.0, 0.5))
        nu = Parameter("nu", "nuisance", 0.0, (-10.0, 10.0), Normal(0.0, 1.0), GaussianConstraint(1.0))
        self.spec = ToySpec("location", "1", ParameterSpace((mu, nu)), (Feature("x"),), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64)

    def centre(self, theta: Tensor) -> Tensor:
        return theta[:, 0] + SHIFT * theta[:, 1]

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        x = self.centre(theta) + torch.randn(len(theta), generator=generator, dtype=torch.float64)
        return Events(x[:, None].float(), theta, torch.ones(len(theta)))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return -0.5 * (x[:, 0] - self.centre(theta)) ** 2 - 0.5 * math.log(2 * math.pi)


@pytest.fixture
def location() -> LocationToy:
    return LocationToy()
