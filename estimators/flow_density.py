"""Densities of x by normalising flows: the frame that all of them share, and splines by zuko.

Features with a hard support are mapped to the real line, columns are standardised to z, and a flow
gives p(z|theta). log_ratio is a difference of two log densities, normalised by construction.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import zuko
from pydantic import PositiveInt
from torch import Tensor, nn

from touchneedle.estimators.base import Capability, Estimator
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.estimators.support import SupportMap
from touchneedle.toys.base import Events, EventSource, ToySpec, collect


@dataclass
class SplineFlowConfig:
    """Options of a neural spline flow.

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


class FlowDensity(Estimator):
    """Abstract. A density of x for every theta, trained by weighted maximum likelihood; write ``_log_density_scaled``."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    normalised = True

    mean_weight: Tensor

    def __init__(self, spec: ToySpec, config: Any) -> None:
        super().__init__(spec, config)
        self.support = SupportMap(spec.features, enabled=config.logit_support)
        self.standardise_x = Standardise(spec.x_dim)
        self.register_buffer("mean_weight", torch.ones(()))

    @abstractmethod
    def _log_density_scaled(self, z: Tensor, theta: Tensor) -> Tensor:
        """log p(z|theta) of standardised z (n, d), shape (n,)."""

    @abstractmethod
    def _sample_scaled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """One standardised z per row of theta, shape (n, d)."""

    @abstractmethod
    def _prepare_theta(self, events: Events) -> None:
        """Learn what the context needs; raise `SkipCell` for events that cannot train the method."""

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.standardise_x.learn(self.support(events.x.double())[0], events.weight)
        self._prepare_theta(events)

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
        with torch.no_grad():
            z = self._sample_scaled(theta, generator)
        return self.support.inverse(self.standardise_x.inverse(z))

    def _log_density(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(x|theta) inside the support; beyond it the value at its edge, so that ratios stay finite."""
        mapped, log_jacobian = self.support(x)
        return self._log_density_scaled(self.standardise_x(mapped), theta) + log_jacobian + self.standardise_x.log_jacobian()


def spline_flow(features: int, context: int, config: SplineFlowConfig) -> zuko.flows.NSF:
    """Autoregressive splines with smooth conditioners (Durkan et al. 2019, arXiv:1906.04032)."""
    return zuko.flows.NSF(
        features=features,
        context=context,
        transforms=config.transforms,
        hidden_features=config.hidden_features,
        bins=config.bins,
        activation=nn.SiLU,
    )


def flow_log_prob(flow: zuko.flows.Flow, z: Tensor, context: Tensor) -> Tensor:
    """log density of z (n, d) under a context (n, c) and a standard normal base, shape (n,)."""
    # Not flow(context).log_prob: torch.distributions would validate every batch.
    base, log_det = flow.transform(context).call_and_ladj(z)
    return -0.5 * (base**2 + math.log(2 * math.pi)).sum(-1) + log_det


def flow_sample(flow: zuko.flows.Flow, context: Tensor, features: int, generator: torch.Generator) -> Tensor:
    """One z per row of the context (n, c), shape (n, features)."""
    noise = torch.randn(len(context), features, generator=generator, dtype=torch.float64, device=generator.device)
    return flow.transform(context).inv(noise.to(context))
