"""ALICES: the soft-label cross-entropy of ALICE, and the joint score for the gradient in theta.

Stoye, Brehmer, Louppe, Pavez, Cranmer 2018, arXiv:1808.00973.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from touchneedle.estimators.mined_alice import soft_cross_entropy
from touchneedle.estimators.mined_ratio import MinedRatioScore, MinedRatioScoreConfig


@dataclass
class MinedAlicesConfig(MinedRatioScoreConfig):
    """Options of `MinedAlices`: those of `MinedRatioScoreConfig`."""


class MinedAlices(MinedRatioScore):
    """log r(x|theta) by cross-entropy with the joint ratio as soft label, plus the error of its score."""

    Config = MinedAlicesConfig

    def _ratio_loss(self, learned: Tensor, joint: Tensor, numerator: Tensor) -> Tensor:
        return soft_cross_entropy(learned, joint)
