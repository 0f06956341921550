"""Balanced ratio estimation: a classifier whose outputs of both classes are pulled to a sum of one.

    loss = cross-entropy + balance (E_joint[d] + E_marginal[d] - 1)^2,   d = sigmoid(log r)

Delaunoy, Hermans, Rozet, Wehenkel, Louppe 2022, arXiv:2208.13624 (BNRE), algorithm 1. The exact
ratio is balanced, so the optimum is that of `ratio_bce`; a classifier that is balanced but not yet there
is, on average, less confident than the exact one (theorems 1 and 2 there).

The square of a mean over a batch of n pairs, as in algorithm 1, exceeds the square of the expectation by
Var(d) / n: a second penalty, on confidence itself, that for small ratios shrinks log r by
1 / (1 + balance / (2 n)) (0.84 at n = 256 and balance 100) however many events there are. The product of
the means of two separate halves has the right expectation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from touchneedle.estimators.ratio_network import Pairs, RatioNetwork, RatioNetworkConfig, cross_entropy
from touchneedle.toys.base import Events


@dataclass
class RatioBalancedConfig(RatioNetworkConfig):
    """Options of `RatioBalanced`: those of every `RatioNetwork`, and the penalty.

    Attributes:
        balance: strength of the penalty, lambda in the paper.
        square: ``halves`` multiplies the means of two halves of a batch, ``batch`` squares its mean as in the paper.
    """

    balance: NonNegativeFloat = 100.0
    square: Literal["halves", "batch"] = "halves"


class RatioBalanced(RatioNetwork):
    """A classifier of (x, theta) pairs with the balance condition as a penalty."""

    Config = RatioBalancedConfig

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        middle = len(events) // 2
        parts = [events[:middle], events[middle:]] if self.config.square == "halves" and middle else [events]
        # Pairs within a part: theta that two parts share would correlate their means.
        pairs = [self._pairs(part, generator) for part in parts]
        penalty = self.config.balance * imbalance(pairs[0]) * imbalance(pairs[-1])
        return torch.cat([cross_entropy(part) for part in pairs]) + penalty


def imbalance(pairs: Pairs) -> Tensor:
    """Mean of d over joint pairs plus that over marginal pairs, minus 1; a scalar.

    1/2 is subtracted event by event, under its weight, so that uneven weights add no noise.
    """
    joint = pairs.joint_weight * (pairs.joint.sigmoid() - 0.5)
    return (joint + pairs.marginal_weight * (pairs.marginal.sigmoid() - 0.5)).mean()
