"""Neural posterior estimation by a mixture density network, turned into a likelihood ratio through the prior.

A mixture of Gaussians with full covariances for theta, whose parameters are functions of x (Papamakarios,
Murray 2016, arXiv:1605.06376). Smooth in theta; the plain member of `posterior_flow`'s families.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.mixture import GaussianMixture
from touchneedle.estimators.posterior_network import PosteriorNetwork, PosteriorNetworkConfig


@dataclass
class PosteriorMixtureConfig(PosteriorNetworkConfig):
    """Options of `PosteriorMixture`: those of `PosteriorNetworkConfig`."""


class PosteriorMixture(PosteriorNetwork):
    """A mixture of Gaussians whose context is x."""

    Config = PosteriorMixtureConfig

    def _build_density(self, features: int, context: int) -> GaussianMixture:
        return GaussianMixture(features, context, self.config.components, self.config.hidden)
