"""Ratio by least squares: the class of a pair is regressed, not its log-odds maximised.

    loss = (1 - d)^2 on joint pairs, d^2 on marginal pairs,   d = sigmoid(log r)

The mean of the label 1 or 0 at a pair is p_joint / (p_joint + p_marginal), hence the optimum is that of
`ratio_bce` (Rizvi, Pettee, Nachman 2023, arXiv:2305.10500, the MSE loss). No event costs more than 1:
rare events that contradict the network pull less than in the cross-entropy, whose loss grows without bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig
from touchneedle.toys.base import Events


@dataclass
class RatioRegressionConfig(RatioNetworkConfig):
    """Options of `RatioRegression`: those of every `RatioNetwork`."""


class RatioRegression(RatioNetwork):
    """The logit of a regression of the class of (x, theta) pairs."""

    Config = RatioRegressionConfig

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        pairs = self._pairs(events, generator)
        return pairs.joint_weight * pairs.joint.neg().sigmoid() ** 2 + pairs.marginal_weight * pairs.marginal.sigmoid() ** 2
