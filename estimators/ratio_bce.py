"""Neural ratio estimation: a classifier between p(x, theta) and p(x) p(theta).

Cranmer, Pavez, Louppe 2015, arXiv:1506.02169 (CARL), eqs. 4 and 5; amortised over theta as in
Hermans, Begy, Louppe 2020, arXiv:1903.04057, algorithm 1. The logit of the best classifier is
log p(x, theta) / (p(x) p(theta)). With template designs p(theta) is the discrete distribution of the
design's points, and theta between them is interpolated by the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, cross_entropy
from touchneedle.toys.base import Events


@dataclass
class RatioBceConfig(RatioNetworkConfig):
    """Options of `RatioBce`: those of every `RatioNetwork`."""


class RatioBce(RatioNetwork):
    """The logit of a classifier of (x, theta) pairs, trained by weighted binary cross-entropy."""

    Config = RatioBceConfig

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return cross_entropy(self._pairs(events, generator))
