"""One table of flows under a context: the builder of each, imported only when chosen (a mixture needs no flow library).

Continuous flows are left out: their steps are chosen after training.
"""

from __future__ import annotations

import importlib
from typing import Literal

from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.flow_density import SplineFlowConfig

FlowFamily = Literal[
    "affine_flow",
    "nflows_coupling_nsf",
    "nflows_maf",
    "nflows_nsf",
    "normflows_nsf",
    "normflows_realnvp",
    "spline_flow",
    "zuko_gf",
    "zuko_maf",
    "zuko_nsf",
    "zuko_realnvp",
]
_BUILDERS: dict[FlowFamily, str] = {
    "affine_flow": "affine_flow:FeatureFirstAffine",
    "nflows_coupling_nsf": "nflows_flows:spline_coupling",
    "nflows_maf": "nflows_flows:affine_autoregressive",
    "nflows_nsf": "nflows_flows:spline_autoregressive",
    "normflows_nsf": "normflows_flows:AutoregressiveSplines",
    "normflows_realnvp": "normflows_flows:AffineCouplings",
    "spline_flow": "spline_flow:FeatureFirstSplines",
    "zuko_gf": "zuko_flows:gaussianisation",
    "zuko_maf": "zuko_flows:affine_autoregressive",
    "zuko_nsf": "zuko_flows:spline_autoregressive",
    "zuko_realnvp": "zuko_flows:affine_coupling",
}


def build_flow(family: FlowFamily, features: int, context: int, config: SplineFlowConfig) -> ConditionalFlow:
    """A flow of ``features`` columns under a context; raises `SkipCell` for a family that cannot have so few."""
    module, _, builder = _BUILDERS[family].partition(":")
    return getattr(importlib.import_module(f"touchneedle.estimators.{module}"), builder)(features, context, config)
