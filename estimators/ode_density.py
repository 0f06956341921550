"""Densities of x by an ordinary differential equation: what flow matching and diffusion share.

A velocity field on the standardised z of `FlowDensity`, with theta as its context, is trained without ever
integrating it; densities and samples integrate it in a fixed number of steps, found after training.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from touchneedle.estimators.base import Design
from touchneedle.estimators.flow_density import FlowDensity
from touchneedle.estimators.flow_ode import FlowOde
from touchneedle.estimators.standardise import Standardise
from touchneedle.toys.base import Events, ToySpec


class VelocityField(Protocol):
    """A velocity in time between data and noise, under the code of a context."""

    def encode(self, context: Tensor) -> Tensor:
        """Code of each context (n, c)."""
        ...

    def __call__(self, y: Tensor, time: Tensor | float, code: Tensor, /) -> Tensor:
        """Velocity, shape (n, features)."""
        ...

    def with_divergence(self, y: Tensor, time: Tensor | float, code: Tensor, /) -> tuple[Tensor, Tensor]:
        """Velocity (n, features) and its divergence (n,)."""
        ...

    def loss(self, value: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of each value, shape (n,)."""
        ...


class OdeDensity(FlowDensity):
    """Abstract. Set ``field`` and call the constructor with the nodes of the way from data to noise."""

    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})

    field: VelocityField

    def __init__(self, spec: ToySpec, config: Any, nodes: Callable[[int], list[float]]) -> None:
        super().__init__(spec, config)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.ode = FlowOde(config, nodes)

    def finish(self, validation: Events) -> None:
        """Settle the number of steps on the validation events."""
        x, theta = self._cast(validation.x), self._cast(validation.theta)
        with torch.no_grad():
            z = self._scaled(x)
            self.ode.settle(lambda steps: self._log_density_scaled(z, theta, steps))

    def cost(self) -> dict[str, float | int]:
        """Steps of the equation, and evaluations of the network for one log density."""
        return self.ode.cost()

    def _standardised(self) -> tuple[tuple[Standardise, Callable[[Events], Tensor]], ...]:
        return (*super()._standardised(), (self.standardise_theta, attrgetter("theta")))

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        error = self.field.loss(self._scaled(events.x), self.standardise_theta(events.theta), generator)
        return events.weight / self.mean_weight * error

    def _log_density_scaled(self, z: Tensor, theta: Tensor, steps: int | None = None) -> Tensor:
        code = self.field.encode(self.standardise_theta(theta))
        return self.ode.log_density(lambda y, time: self.field.with_divergence(y, time, code), z, steps)

    def _sample_scaled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        code = self.field.encode(self.standardise_theta(theta))
        noise = torch.randn(len(theta), self.spec.x_dim, generator=generator, dtype=torch.float64, device=generator.device)
        return self.ode.transport(lambda y, time: self.field(y, time, code), noise.to(code))

    def _scaled(self, x: Tensor) -> Tensor:
        return self.standardise_x(self.support(x)[0])
