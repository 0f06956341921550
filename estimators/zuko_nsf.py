"""Neural likelihood estimation: a conditional neural spline flow p(x|theta), by zuko.

Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032; as a likelihood for inference:
Papamakarios, Sterratt, Murray 2019, arXiv:1805.07226. Missing entries of x are treated as the
plain numbers that mark them. The splines are the identity beyond 5 standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_density import ConditionalDensity, SplineFlowConfig
from touchneedle.estimators.zuko_flows import ZukoFlow, spline_autoregressive


@dataclass
class ZukoNsfConfig(SplineFlowConfig):
    """Options of `ZukoNsf`: those of `SplineFlowConfig`."""


class ZukoNsf(ConditionalDensity):
    """Splines whose context is theta."""

    Config = ZukoNsfConfig

    def _build_flow(self, features: int, context: int) -> ZukoFlow:
        return spline_autoregressive(features, context, self.config)
