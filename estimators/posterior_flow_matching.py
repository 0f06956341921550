"""Flow matching posterior estimation: the posterior's density by a learned velocity, turned into a likelihood ratio through the prior.

Wildberger, Dax, Buchholz, Green, Macke, Schoelkopf 2023, arXiv:2305.17161. The posterior is a density of u given x, where
u = spec.parameters.to_normal(theta) has the prior N(0, 1)^p: log p(x|theta) / p(x) = log q(u|x) - log N(u). The velocity is smooth in
u and trained along straight paths; each log density integrates it, with its exact divergence. Needs events from the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.estimators.flow_ode import FlowOde, OdeConfig
from touchneedle.estimators.normalisation import Normalise
from touchneedle.estimators.posterior_density import PosteriorDensity
from touchneedle.estimators.straight_path import StraightField, StraightPathConfig, straight_nodes
from touchneedle.toys.base import Events, ToySpec


@dataclass
class PosteriorFlowMatchingConfig(StraightPathConfig, OdeConfig):
    """Options of `PosteriorFlowMatching`, beside those of the paths and of the equation.

    Attributes:
        normalise: ``local`` keeps reference events for the normalisation in fits, ``none`` does not.
        reference_events: at most that many training events are kept.
    """

    normalise: Normalise = "local"
    reference_events: PositiveInt = 20_000


class PosteriorFlowMatching(PosteriorDensity):
    """A velocity of theta whose context is x."""

    Config = PosteriorFlowMatchingConfig

    def __init__(self, spec: ToySpec, config: PosteriorFlowMatchingConfig) -> None:
        super().__init__(spec, config)
        self.field = StraightField(spec.theta_dim, self.standardise_x.dim, config)
        self.ode = FlowOde(config, straight_nodes)

    def finish(self, validation: Events) -> None:
        """Settle the number of steps on the validation events."""
        u, x = self._to_normal(self._cast(validation.theta)), self._cast(validation.x)
        with torch.no_grad():
            self.ode.settle(lambda steps: self._log_density(u, x, steps))

    def cost(self) -> dict[str, float | int]:
        """Steps of the equation, and evaluations of the network for one log density."""
        return self.ode.cost()

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        error = self.field.loss(self._to_normal(events.theta), self.standardise_x(events.x), generator)
        return events.weight / self.mean_weight * error

    def _log_density(self, u: Tensor, x: Tensor, steps: int | None = None) -> Tensor:
        code = self.field.encode(self.standardise_x(x))
        return self.ode.log_density(lambda y, time: self.field.with_divergence(y, time, code), u, steps)

    def _sample_normal(self, x: Tensor, generator: torch.Generator) -> Tensor:
        code = self.field.encode(self.standardise_x(x))
        noise = torch.randn(len(x), self.spec.theta_dim, generator=generator, dtype=torch.float64, device=generator.device)
        return self.ode.transport(lambda y, time: self.field(y, time, code), noise.to(code))
