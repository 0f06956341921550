"""ALICE: a classifier of theta against theta_0 whose labels are the joint ratios.

Stoye, Brehmer, Louppe, Pavez, Cranmer 2018, arXiv:1808.00973. The binary cross-entropy of `ratio_bce` with the
label 0 or 1 of an event replaced by the chance r / (1 + r) that its x and z come from theta, which has less variance:

    loss = -r / (1 + r) log s - 1 / (1 + r) log(1 - s),   s = sigmoid(log_ratio).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.estimators.mined_ratio import MinedRatio, MinedRatioConfig


@dataclass
class MinedAliceConfig(MinedRatioConfig):
    """Options of `MinedAlice`: those of `MinedRatioConfig`."""


class MinedAlice(MinedRatio):
    """log r(x|theta) by cross-entropy with the joint ratio as soft label."""

    Config = MinedAliceConfig

    def _ratio_loss(self, learned: Tensor, joint: Tensor, numerator: Tensor) -> Tensor:
        return soft_cross_entropy(learned, joint)


def soft_cross_entropy(learned: Tensor, joint: Tensor) -> Tensor:
    """The loss above from the learned and the joint log ratio, each (n,); the joint one may be infinite."""
    return softplus(learned) - joint.sigmoid() * learned
