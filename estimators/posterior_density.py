"""Posteriors of single events in coordinates u whose prior is N(0, 1)^p: the frame that all of them share.

With u = spec.parameters.to_normal(theta), log p(x|theta) / p(x) = log q(u|x) - log N(u): the Jacobian of u cancels.
"""

from __future__ import annotations

from abc import abstractmethod
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.conditional_distribution import log_standard_normal
from touchneedle.estimators.normalisation import EvidenceRatio
from touchneedle.estimators.standardise import Standardise, learn_in_one_pass
from touchneedle.toys.base import Events, EventSource, ToySpec


class PosteriorDensity(EvidenceRatio):
    """Abstract. A density of theta for every x; write ``_log_density`` and ``_sample_normal``."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "posterior_log_prob", "posterior_sample"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior"})

    mean_weight: Tensor

    def __init__(self, spec: ToySpec, config: Any) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.register_buffer("mean_weight", torch.ones(()))
        self._register_reference(config.normalise)

    @abstractmethod
    def _log_density(self, u: Tensor, x: Tensor) -> Tensor:
        """log q(u|x), shape (n,)."""

    @abstractmethod
    def _sample_normal(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One u per row of x, shape (n, p)."""

    def _prepare(self, source: EventSource) -> None:
        self.mean_weight = learn_in_one_pass(source, (self.standardise_x, attrgetter("x"))).to(self.mean_weight)
        self.keep_reference(source, self.config.reference_events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return -events.weight / self.mean_weight * self._log_density(self._to_normal(events.theta), events.x)

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_posterior_over_prior(x, theta)

    def _log_posterior_over_prior(self, x: Tensor, theta: Tensor) -> Tensor:
        u = self._to_normal(theta)
        return self._log_density(u, x) - log_standard_normal(u)

    def _posterior_log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        ratio = self._log_posterior_over_prior(self._single(x), theta)
        return ratio.double() + self.spec.parameters.log_prior(theta.double())

    def _posterior_sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            u = self._sample_normal(self._single(x).repeat_interleave(n, 0), generator)
        return self.spec.parameters.from_normal(u.double()).reshape(len(x), n, -1)

    def _to_normal(self, theta: Tensor) -> Tensor:
        # In float64: near an edge of the prior 1 - 1e-12 is not a float32 number.
        return self.spec.parameters.to_normal(theta.double()).to(theta)

    def _single(self, x: Tensor) -> Tensor:
        if x.shape[1] != 1:
            raise InputError(f"x: {type(self).__name__} knows the posterior of single events, shape (b, 1, d); got {tuple(x.shape)}")
        return x[:, 0]
