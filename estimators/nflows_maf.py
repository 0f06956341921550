"""Masked autoregressive flow p(x|theta) by nflows: beside `zuko_maf`.

Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057. Smooth in x and theta. nflows is no longer released
(0.14 is from 2020); it stands here for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_density import ConditionalDensity, FlowConfig
from touchneedle.estimators.nflows_flows import NflowsFlow, affine_autoregressive


@dataclass
class NflowsMafConfig(FlowConfig):
    """Options of `NflowsMaf`: those of `FlowConfig`, with hidden layers of equal widths."""


class NflowsMaf(ConditionalDensity):
    """Affine autoregressive layers of nflows whose context is theta."""

    Config = NflowsMafConfig

    def _build_flow(self, features: int, context: int) -> NflowsFlow:
        return affine_autoregressive(features, context, self.config)
