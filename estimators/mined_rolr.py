"""ROLR: regression on the likelihood ratio itself.

Brehmer, Cranmer, Louppe, Pavez 2018, arXiv:1805.00020. For an event from theta_0 the squared error of r(x|theta), for
one from theta that of 1 / r(x|theta), so that both ends of the ratio are learned where they have events. Squares of
ratios have heavy tails: a few events of large weight drive the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from touchneedle.estimators.mined_ratio import MinedRatio, MinedRatioConfig

# Bound of |log r| where it is exponentiated, as in MadMiner (arXiv:1907.10621); unbounded squares overflow in float32.
MAX_LOG_RATIO = 10.0


@dataclass
class MinedRolrConfig(MinedRatioConfig):
    """Options of `MinedRolr`: those of `MinedRatioConfig`."""


class MinedRolr(MinedRatio):
    """log r(x|theta) by the squared error of r and 1 / r against the joint ratio."""

    Config = MinedRolrConfig

    def _ratio_loss(self, learned: Tensor, joint: Tensor, numerator: Tensor) -> Tensor:
        return ratio_square(learned, joint, numerator)


def ratio_square(learned: Tensor, joint: Tensor, numerator: Tensor) -> Tensor:
    """(r - joint r)^2, for ``numerator`` (n,) events (1/r - 1/joint r)^2, from log ratios (n,) that may be infinite."""
    sign = 1 - 2 * numerator.to(learned.dtype)
    learned_ratio, joint_ratio = ((sign * value).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() for value in (learned, joint))
    return (learned_ratio - joint_ratio).square()
