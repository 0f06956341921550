"""Neural posterior estimation, turned into a likelihood ratio through the prior: what its families share.

The posterior is a density of u given x, where u = spec.parameters.to_normal(theta) has the prior
N(0, 1)^p: log p(x|theta) / p(x) = log q(u|x) - log N(u), and the Jacobian of u cancels. The family should be
smooth in u, because any roughness in theta is multiplied by the number of events. Needs events from the prior.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.conditional_distribution import ConditionalDistribution
from touchneedle.estimators.conditional_flow import log_standard_normal
from touchneedle.estimators.mixture import GaussianMixture
from touchneedle.estimators.normalisation import EvidenceRatio, Normalise
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.toys.base import Events, EventSource, ToySpec, collect


@dataclass
class PosteriorConfig:
    """Options of every `PosteriorDensity`.

    Attributes:
        components: Gaussians in a mixture.
        hidden: widths of the hidden layers of all networks (SiLU).
        normalise: ``local`` keeps reference events for the normalisation in fits, ``none`` does not.
        reference_events: at most that many training events are kept.
    """

    components: PositiveInt = 4
    hidden: tuple[PositiveInt, ...] = (128, 128)
    normalise: Normalise = "local"
    reference_events: PositiveInt = 20_000


class PosteriorDensity(EvidenceRatio):
    """Abstract. A density of theta for every x, trained by weighted maximum likelihood; write ``_build_density``."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "posterior_log_prob", "posterior_sample"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior"})

    mean_weight: Tensor

    def __init__(self, spec: ToySpec, config: Any) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.density = self._build_density(spec.theta_dim, self.standardise_x.dim)
        self.register_buffer("mean_weight", torch.ones(()))
        self._register_reference(config.normalise)

    @abstractmethod
    def _build_density(self, features: int, context: int) -> ConditionalDistribution:
        """q of u (n, features) under a context (n, context)."""

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.standardise_x.learn(events.x, events.weight)
        self.keep_reference(events, self.config.reference_events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return -events.weight / self.mean_weight * self._log_density(self._to_normal(events.theta), events.x)

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        u = self._to_normal(theta)
        return self._log_density(u, x) - log_standard_normal(u)

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        if not isinstance(self.density, GaussianMixture):
            return super()._log_evidence_ratio_grid(x, theta)
        u = self._to_normal(theta)
        return self.density.log_prob_grid(u, self.standardise_x(x)) - log_standard_normal(u)

    def _posterior_log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        single = self._single(x)
        return self._log_evidence_ratio(single, theta).double() + self.spec.parameters.log_prior(theta.double())

    def _posterior_sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        context = self.standardise_x(self._single(x)).repeat_interleave(n, 0)
        with torch.no_grad():
            u = self.density.sample(context, generator)
        theta = self.spec.parameters.from_normal(u.double())
        return theta.reshape(len(x), n, -1)

    def _log_density(self, u: Tensor, x: Tensor) -> Tensor:
        """log q(u|x), shape (n,)."""
        return self.density.log_prob(u, self.standardise_x(x))

    def _to_normal(self, theta: Tensor) -> Tensor:
        # In float64: near an edge of the prior 1 - 1e-12 is not a float32 number.
        return self.spec.parameters.to_normal(theta.double()).to(theta)

    def _single(self, x: Tensor) -> Tensor:
        if x.shape[1] != 1:
            raise InputError(f"x: a posterior network knows the posterior of single events, shape (b, 1, d); got {tuple(x.shape)}")
        return x[:, 0]
