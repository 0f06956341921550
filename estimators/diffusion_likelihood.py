"""Diffusion likelihood: a density p(x|theta) by the probability flow of a learned score.

Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021, arXiv:2011.13456, section 4.3: denoising score matching of x given theta, and
the ordinary differential equation that has the same marginals as the diffusion. The log density integrates its exact divergence; it is
that of x with the smallest noise added. Missing entries of x are treated as the plain numbers that mark them.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.diffusion import TIME_FEATURES, DiffusionConfig, DiffusionField, angle_nodes
from touchneedle.estimators.field_network import FieldNetwork
from touchneedle.estimators.flow_ode import OdeConfig
from touchneedle.estimators.ode_density import OdeDensity
from touchneedle.toys.base import ToySpec


@dataclass
class DiffusionLikelihoodConfig(DiffusionConfig, OdeConfig):
    """Options of `DiffusionLikelihood`, beside those of the diffusion and of its probability flow.

    Attributes:
        logit_support: map features with a hard support onto the real line first.
    """

    logit_support: bool = True


class DiffusionLikelihood(OdeDensity):
    """The score of the diffused x, whose context is theta."""

    Config = DiffusionLikelihoodConfig

    def __init__(self, spec: ToySpec, config: DiffusionLikelihoodConfig) -> None:
        super().__init__(spec, config, lambda steps: angle_nodes(config.sigma_min, steps))
        self.field = DiffusionField(FieldNetwork(spec.x_dim, TIME_FEATURES, spec.theta_dim, config.hidden), config)
