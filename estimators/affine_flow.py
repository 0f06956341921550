"""Masked autoregressive flow p(x|theta) of our own: scales and shifts of one feature after the other, features first.

    y = s x + t,   log s = L tanh(a / L)

with a and t from a masked perceptron (Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509) of theta and of the features before
(Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057). Smooth in x and theta, and exact on Gaussians; modes that are far apart remain
joined by bridges: where they matter choose `spline_flow`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from touchneedle.estimators.conditional_flow import LEAST_SLOPE
from touchneedle.estimators.feature_first import FeatureFirstFlow, FeatureFirstLayer
from touchneedle.estimators.flow_density import ConditionalDensity, FlowConfig

# Largest log s, L.
_LARGEST = -math.log(LEAST_SLOPE)


@dataclass
class AffineFlowConfig(FlowConfig):
    """Options of `AffineFlow`: those of `FlowConfig`."""


class AffineFlow(ConditionalDensity):
    """Scales and shifts whose context is theta."""

    Config = AffineFlowConfig

    def _build_flow(self, features: int, context: int) -> FeatureFirstAffine:
        return FeatureFirstAffine(features, context, self.config)


class FeatureFirstAffine(FeatureFirstFlow):
    """Layers of scales and shifts."""

    def __init__(self, features: int, context: int, config: FlowConfig) -> None:
        super().__init__(features, config.transforms, lambda order: AffineLayer(order, context, config.hidden_features))


class AffineLayer(FeatureFirstLayer):
    """A scale and a shift for each feature; no scale is below `LEAST_SLOPE`, none above one over it."""

    def __init__(self, order: Sequence[int], context: int, hidden: Sequence[int]) -> None:
        super().__init__(order, context, 2, hidden)

    def _transform(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = _of(parameters)
        return value * log_scale.exp() + shift, log_scale

    def _invert(self, value: Tensor, parameters: Tensor) -> Tensor:
        log_scale, shift = _of(parameters)
        return (value - shift) * (-log_scale).exp()


def _of(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """log s and t, each (d, n)."""
    free, shift = parameters.unbind(1)
    return _LARGEST * (free / _LARGEST).tanh(), shift
