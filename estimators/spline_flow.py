"""Neural likelihood estimation by a flow of our own: the splines of `zuko_nsf`, features first, at twice the speed.

Autoregressive rational-quadratic splines (Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032) whose parameters come from
masked perceptrons (Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509) of theta and of the features before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from touchneedle.estimators import rational_quadratic
from touchneedle.estimators.conditional_flow import SPLINE_REACH
from touchneedle.estimators.feature_first import FeatureFirstFlow, FeatureFirstLayer
from touchneedle.estimators.flow_density import ConditionalDensity, SplineFlowConfig


@dataclass
class SplineFlowOptions(SplineFlowConfig):
    """Options of `SplineFlow`: those of `SplineFlowConfig`."""


class SplineFlow(ConditionalDensity):
    """Splines whose context is theta."""

    Config = SplineFlowOptions

    def _build_flow(self, features: int, context: int) -> FeatureFirstSplines:
        return FeatureFirstSplines(features, context, self.config)


class FeatureFirstSplines(FeatureFirstFlow):
    """Layers of splines."""

    def __init__(self, features: int, context: int, config: SplineFlowConfig) -> None:
        super().__init__(features, config.transforms, lambda order: SplineLayer(order, context, config.bins, config.hidden_features))


class SplineLayer(FeatureFirstLayer):
    """A spline for each feature."""

    def __init__(self, order: Sequence[int], context: int, bins: int, hidden: Sequence[int]) -> None:
        super().__init__(order, context, 3 * bins - 1, hidden)

    def _transform(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic.forward(value, parameters, SPLINE_REACH)

    def _invert(self, value: Tensor, parameters: Tensor) -> Tensor:
        return rational_quadratic.inverse(value, parameters, SPLINE_REACH)
