"""Neural spline flow p(x|theta), one feature after the other, by normflows: beside `zuko_nsf`.

Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032; Stimper et al. 2023, arXiv:2302.12014. The splines
are the identity beyond 5 standard deviations, and everywhere before training.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_density import ConditionalDensity, SplineFlowConfig
from touchneedle.estimators.normflows_flows import AutoregressiveSplines


@dataclass
class NormflowsNsfConfig(SplineFlowConfig):
    """Options of `NormflowsNsf`: those of `SplineFlowConfig`; after the first width, each is a residual block of two layers."""


class NormflowsNsf(ConditionalDensity):
    """Autoregressive splines of normflows whose context is theta."""

    Config = NormflowsNsfConfig

    def _build_flow(self, features: int, context: int) -> AutoregressiveSplines:
        return AutoregressiveSplines(features, context, self.config)
