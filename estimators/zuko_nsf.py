"""Neural likelihood estimation: a conditional neural spline flow p(x|theta), by zuko.

Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032; as a likelihood for inference:
Papamakarios, Sterratt, Murray 2019, arXiv:1805.07226. Missing entries of x are treated as the
plain numbers that mark them. The splines are the identity beyond 5 standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.estimators.base import Design
from touchneedle.estimators.flow_density import FlowDensity, SplineFlowConfig, flow_log_prob, flow_sample, spline_flow
from touchneedle.estimators.standardise import Standardise
from touchneedle.toys.base import Events, ToySpec


@dataclass
class ZukoNsfConfig(SplineFlowConfig):
    """Options of `ZukoNsf`: those of `SplineFlowConfig`."""


class ZukoNsf(FlowDensity):
    """Splines whose context is theta."""

    Config = ZukoNsfConfig
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})

    def __init__(self, spec: ToySpec, config: ZukoNsfConfig) -> None:
        super().__init__(spec, config)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.flow = spline_flow(spec.x_dim, spec.theta_dim, config)

    def _prepare_theta(self, events: Events) -> None:
        self.standardise_theta.learn(events.theta, events.weight)

    def _log_density_scaled(self, z: Tensor, theta: Tensor) -> Tensor:
        return flow_log_prob(self.flow, z, self.standardise_theta(theta))

    def _sample_scaled(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return flow_sample(self.flow, self.standardise_theta(theta), self.spec.x_dim, generator)
