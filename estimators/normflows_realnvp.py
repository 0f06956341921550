"""RealNVP p(x|theta) by normflows, whose couplings are given theta beside the features that stay: beside `zuko_realnvp`.

Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803; Stimper et al. 2023, arXiv:2302.12014. With equal weights it
is the density of `zuko_realnvp`.
"""

from __future__ import annotations

from dataclasses import dataclass

from touchneedle.estimators.flow_density import ConditionalDensity
from touchneedle.estimators.normflows_flows import AffineCouplings
from touchneedle.estimators.zuko_realnvp import ZukoRealnvpConfig


@dataclass
class NormflowsRealnvpConfig(ZukoRealnvpConfig):
    """Options of `NormflowsRealnvp`: those of `ZukoRealnvp`."""


class NormflowsRealnvp(ConditionalDensity):
    """Affine coupling layers of normflows whose context is theta."""

    Config = NormflowsRealnvpConfig

    def _build_flow(self, features: int, context: int) -> AffineCouplings:
        return AffineCouplings(features, context, self.config)
