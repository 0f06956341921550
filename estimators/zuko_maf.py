"""Masked autoregressive flow p(x|theta): scales and shifts of one feature after the other, by zuko.

Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057; as a likelihood for inference: arXiv:1805.07226. Smooth
in x and theta, and exact on Gaussians; modes that are far apart remain joined by bridges: on two Gaussians four
sigmas apart, with 10,000 events, the divergence was 0.18 nats, 0.10 for `nflows_maf`, 0.02 for `zuko_nsf` (one seed).
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_density import ConditionalDensity, FlowConfig
from touchneedle.estimators.zuko_flows import ZukoFlow, affine_autoregressive


@dataclass
class ZukoMafConfig(FlowConfig):
    """Options of `ZukoMaf`: those of `FlowConfig`."""


class ZukoMaf(ConditionalDensity):
    """Affine autoregressive layers of zuko whose context is theta."""

    Config = ZukoMafConfig

    def _build_flow(self, features: int, context: int) -> ZukoFlow:
        return affine_autoregressive(features, context, self.config)
