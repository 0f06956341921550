"""Neural likelihood estimation: a conditional neural spline flow p(x|theta), by zuko.

Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032; as a likelihood for inference:
Papamakarios, Sterratt, Murray 2019, arXiv:1805.07226. Missing entries of x are treated as the
plain numbers that mark them. The splines are the identity beyond 5 standard deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import zuko
from pydantic import PositiveInt
from torch import Tensor, nn

from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.estimators.support import SupportMap
from touchneedle.toys.base import Events, EventSource, ToySpec, collect


@dataclass
class ZukoNsfConfig:
    """Options of `ZukoNsf`.

    Attributes:
        transforms: number of autoregressive spline layers.
        hidden_features: widths of the hidden layers of each conditioner.
        bins: spline bins per layer and feature.
        logit_support: map features with a hard support onto the real line first.
    """

    transforms: PositiveInt = 3
    hidden_features: tuple[PositiveInt, ...] = (64, 64)
    bins: PositiveInt = 8
    logit_support: bool = True


class ZukoNsf(Estimator):
    """A density of x for every theta, trained by weighted maximum likelihood."""

    Config = ZukoNsfConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})
    normalised = True

    mean_weight: Tensor

    def __init__(self, spec: ToySpec, config: ZukoNsfConfig) -> None:
        super().__init__(spec, config)
        self.support = SupportMap(spec.features, enabled=config.logit_support)
        self.standardise_x = Standardise(spec.x_dim)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.flow = zuko.flows.NSF(
            features=spec.x_dim,
            context=spec.theta_dim,
            transforms=config.transforms,
            hidden_features=config.hidden_features,
            bins=config.bins,
            activation=nn.SiLU,
        )
        self.register_buffer("mean_weight", torch.ones(()))

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.standardise_x.learn(self.support(events.x.double())[0], events.weight)
        self.standardise_theta.learn(events.theta, events.weight)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return -events.weight / self.mean_weight * self._log_density(events.x, events.theta)

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_density(x, theta) - self._log_density(x, self.nominal.expand_as(theta))

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_density(x, theta)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        at_nominal = self._log_density(x, self.nominal.expand(len(x), -1))
        pairs = self._log_density(x.repeat_interleave(len(theta), 0), theta.repeat(len(x), 1))
        return pairs.reshape(len(x), len(theta)) - at_nominal[:, None]

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        outside = torch.full((), -math.inf, dtype=x.dtype, device=x.device)
        return torch.where(self.support.inside(x), self._log_density(x, theta), outside)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(theta), self.spec.x_dim, generator=generator, dtype=torch.float64, device=generator.device)
        with torch.no_grad():
            scaled = self.flow.transform(self.standardise_theta(theta)).inv(noise.to(theta))
        return self.support.inverse(self.standardise_x.inverse(scaled))

    def _log_density(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta) inside the support; beyond it the value at its edge, so that ratios stay finite."""
        mapped, log_jacobian = self.support(x)
        transform = self.flow.transform(self.standardise_theta(theta))
        # Not flow(theta).log_prob: torch.distributions would validate every batch.
        base, log_det = transform.call_and_ladj(self.standardise_x(mapped))
        log_normal = -0.5 * (base**2 + math.log(2 * math.pi)).sum(-1)
        return log_normal + log_det + log_jacobian + self.standardise_x.log_jacobian()
