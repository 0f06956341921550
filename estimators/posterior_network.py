"""Posteriors by a conditional distribution, a mixture or a flow, trained by maximum likelihood.

The family should be smooth in u, because any roughness in theta is multiplied by the number of events.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.estimators.conditional_distribution import ConditionalDistribution, log_standard_normal
from touchneedle.estimators.normalisation import Normalise
from touchneedle.estimators.posterior_density import PosteriorDensity
from touchneedle.toys.base import ToySpec


@dataclass
class PosteriorNetworkConfig:
    """Options of every `PosteriorNetwork`.

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


class PosteriorNetwork(PosteriorDensity):
    """Abstract. q(u|x) whose context is x; write ``_build_density``."""

    def __init__(self, spec: ToySpec, config: Any) -> None:
        super().__init__(spec, config)
        self.density = self._build_density(spec.theta_dim, self.standardise_x.dim)

    @abstractmethod
    def _build_density(self, features: int, context: int) -> ConditionalDistribution:
        """q of u (n, features) under a context (n, context)."""

    def _log_density(self, u: Tensor, x: Tensor) -> Tensor:
        return self.density.log_prob(u, self.standardise_x(x))

    def _sample_normal(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.density.sample(self.standardise_x(x), generator)

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        u = self._to_normal(theta)
        return self.density.log_prob_grid(u, self.standardise_x(x)) - log_standard_normal(u)
