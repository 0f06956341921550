"""RealNVP p(x|theta): scales and shifts of every second feature, given the others, by zuko.

Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803. Fast in both directions; needs two features, and more
layers than an autoregressive flow for the same density: six by default. On two Gaussians four sigmas apart, with
10,000 events, the divergence was 0.08 nats against 0.02 of `zuko_nsf` (one seed).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from touchneedle.estimators.flow_density import ConditionalDensity, FlowConfig
from touchneedle.estimators.zuko_flows import ZukoFlow, affine_coupling


@dataclass
class ZukoRealnvpConfig(FlowConfig):
    """Options of `ZukoRealnvp`: those of `FlowConfig`, with more layers."""

    transforms: PositiveInt = 6


class ZukoRealnvp(ConditionalDensity):
    """Affine coupling layers of zuko whose context is theta."""

    Config = ZukoRealnvpConfig

    def _build_flow(self, features: int, context: int) -> ZukoFlow:
        return affine_coupling(features, context, self.config)
