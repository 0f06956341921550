"""Neural spline flow p(x|theta), one feature after the other, by nflows: beside `zuko_nsf`.

Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032. The splines are the identity beyond 5 standard
deviations. nflows is no longer released (0.14 is from 2020); it stands here for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_density import ConditionalDensity, SplineFlowConfig
from touchneedle.estimators.nflows_flows import NflowsFlow, spline_autoregressive


@dataclass
class NflowsNsfConfig(SplineFlowConfig):
    """Options of `NflowsNsf`: those of `SplineFlowConfig`, with hidden layers of equal widths."""


class NflowsNsf(ConditionalDensity):
    """Autoregressive splines of nflows whose context is theta."""

    Config = NflowsNsfConfig

    def _build_flow(self, features: int, context: int) -> NflowsFlow:
        return spline_autoregressive(features, context, self.config)
