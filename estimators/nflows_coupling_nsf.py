"""Neural spline flow p(x|theta) of coupling layers, by nflows: every second feature given the others.

Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032. Fast in both directions; needs two features, and
more layers than an autoregressive flow for the same density: six by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from touchneedle.estimators.flow_density import ConditionalDensity, SplineFlowConfig
from touchneedle.estimators.nflows_flows import NflowsFlow, spline_coupling


@dataclass
class NflowsCouplingNsfConfig(SplineFlowConfig):
    """Options of `NflowsCouplingNsf`: those of `SplineFlowConfig`, with more layers."""

    transforms: PositiveInt = 6


class NflowsCouplingNsf(ConditionalDensity):
    """Spline coupling layers of nflows whose context is theta."""

    Config = NflowsCouplingNsfConfig

    def _build_flow(self, features: int, context: int) -> NflowsFlow:
        return spline_coupling(features, context, self.config)
