"""Mixture density network p(x|theta): Gaussians with full covariances whose parameters are functions of theta.

Bishop 1994, NCRG/94/004. Smooth in x and theta, exact where the density is a mixture of few Gaussians, and fast:
one small network per point, whatever the number of features.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from touchneedle.estimators.flow_density import ConditionalDensity
from touchneedle.estimators.mixture import GaussianMixture


@dataclass
class MixtureDensityConfig:
    """Options of `MixtureDensity`.

    Attributes:
        components: Gaussians in the mixture.
        hidden_features: widths of the hidden layers of the network (SiLU).
        logit_support: map features with a hard support onto the real line first.
    """

    components: PositiveInt = 8
    hidden_features: tuple[PositiveInt, ...] = (64, 64)
    logit_support: bool = True


class MixtureDensity(ConditionalDensity):
    """A mixture of Gaussians whose context is theta."""

    Config = MixtureDensityConfig

    def _build_flow(self, features: int, context: int) -> GaussianMixture:
        return GaussianMixture(features, context, self.config.components, self.config.hidden_features)
