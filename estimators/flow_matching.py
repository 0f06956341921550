"""Flow matching: a density p(x|theta) by a learned velocity between data and noise.

Lipman, Chen, Ben-Hamu, Nickel, Le 2023, arXiv:2210.02747. Training regresses the velocity along straight paths and never
integrates it; the log density does, with its exact divergence. Missing entries of x are treated as the plain numbers that mark them.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_ode import OdeConfig
from touchneedle.estimators.ode_density import OdeDensity
from touchneedle.estimators.straight_path import StraightField, StraightPathConfig, straight_nodes
from touchneedle.toys.base import ToySpec


@dataclass
class FlowMatchingConfig(StraightPathConfig, OdeConfig):
    """Options of `FlowMatching`, beside those of the paths and of the equation.

    Attributes:
        logit_support: map features with a hard support onto the real line first.
    """

    logit_support: bool = True


class FlowMatching(OdeDensity):
    """A velocity of x whose context is theta."""

    Config = FlowMatchingConfig

    def __init__(self, spec: ToySpec, config: FlowMatchingConfig) -> None:
        super().__init__(spec, config, straight_nodes)
        self.field = StraightField(spec.x_dim, spec.theta_dim, config)
