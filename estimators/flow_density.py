"""Densities of x by normalising flows: the frame that all of them share.

Features with a hard support are mapped to the real line, columns are standardised to z, and a flow
gives p(z|theta). log_ratio is a difference of two log densities, normalised by construction.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.estimators.conditional_distribution import ConditionalDistribution
from touchneedle.estimators.pairs import on_pairs
from touchneedle.estimators.standardise import Standardise, learn_in_one_pass
from touchneedle.estimators.support import SupportMap
from touchneedle.toys.base import Events, EventSource, ToySpec


@dataclass
class FlowConfig:
    """Options of a flow, the same for all libraries.

    Attributes:
        transforms: number of layers.
        hidden_features: widths of the hidden layers of each conditioner (SiLU).
        logit_support: map features with a hard support onto the real line first.
    """

    transforms: PositiveInt = 3
    hidden_features: tuple[PositiveInt, ...] = (64, 64)
    logit_support: bool = True


@dataclass
class SplineFlowConfig(FlowConfig):
    """Options of a flow of splines, beside those of every flow.

    Attributes:
        bins: spline bins per layer and feature.
    """

    bins: PositiveInt = 8


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

    def _log_density_scaled_grid(self, z: Tensor, theta: Tensor) -> Tensor:
        """The same for every z (n, d) at every theta (m, p), shape (n, m)."""
        return on_pairs(self._log_density_scaled, z, theta)

    @abstractmethod
    def _sample_scaled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """One standardised z per row of theta, shape (n, d)."""

    def _standardised(self) -> tuple[tuple[Standardise, Callable[[Events], Tensor]], ...]:
        """What is standardised, and the columns of the training events that each learns from; add what the context needs."""
        return ((self.standardise_x, lambda events: self.support(events.x.double())[0]),)

    def _prepare(self, source: EventSource) -> None:
        self.mean_weight = learn_in_one_pass(source, *self._standardised()).to(self.mean_weight)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return -events.weight / self.mean_weight * self._log_density(events.x, events.theta)

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_density(x, theta) - self._log_density(x, self.nominal.expand_as(theta))

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_density(x, theta)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        # Jacobians of x cancel in the ratio.
        z = self.standardise_x(self.support(x)[0])
        log_p = self._log_density_scaled_grid(z, torch.cat([self.nominal[None], theta]))
        return log_p[:, 1:] - log_p[:, :1]

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


class ConditionalDensity(FlowDensity):
    """Abstract. A density of z whose context is standardised theta; write ``_build_flow``."""

    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})

    def __init__(self, spec: ToySpec, config: Any) -> None:
        super().__init__(spec, config)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.flow = self._build_flow(spec.x_dim, spec.theta_dim)

    @abstractmethod
    def _build_flow(self, features: int, context: int) -> ConditionalDistribution:
        """The density of z (n, features) under a context (n, context); raise `SkipCell` where there is none."""

    def _standardised(self) -> tuple[tuple[Standardise, Callable[[Events], Tensor]], ...]:
        return (*super()._standardised(), (self.standardise_theta, attrgetter("theta")))

    def _log_density_scaled(self, z: Tensor, theta: Tensor) -> Tensor:
        return self.flow.log_prob(z, self.standardise_theta(theta))

    def _log_density_scaled_grid(self, z: Tensor, theta: Tensor) -> Tensor:
        return self.flow.log_prob_grid(z, self.standardise_theta(theta)).T

    def _sample_scaled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.flow.sample(self.standardise_theta(theta), generator)
