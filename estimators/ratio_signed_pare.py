"""Signed ratios by PARE: a linear output and a quadratic loss, whose ratio has a pole far below zero.

Drnevich, Jiggins, Katzy, Cranmer 2024, arXiv:2410.10216: the loss (t_1 s - 1)^2 in the signed class and
(t_0 s - 1)^2 in the reference class. Its best s has ratio r = t_0 (1 - t_0 s) / (t_1 (t_1 s - 1)), with a pole at
r = -(t_0 / t_1)^2; where r is above, the loss is convex. Written in v = r / (1 + r / pole), which is linear in s,
and divided by its scale, the loss is v^2 / pole - 2 v in the signed class and v^2 in the reference class: nothing
but the pole is left of t_0 and t_1, and with a far pole it is the least-squares fit of a ratio (Kanamori, Hido,
Sugiyama 2009, JMLR 10, 1391).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat
from torch import Tensor

from touchneedle.estimators.signed_network import SignedNetwork, SignedNetworkConfig
from touchneedle.estimators.signed_ratio import SignedLog


@dataclass
class RatioSignedPareConfig(SignedNetworkConfig):
    """Options of `RatioSignedPare`: those of its network, and the pole.

    Attributes:
        pole: (t_0 / t_1)^2, by default that of the paper (t_0 = 25619, t_1 = 58); ratios to the reference must lie above -pole.
    """

    pole: PositiveFloat = 195_105.0


class RatioSignedPare(SignedNetwork):
    """rho = v / (1 - v / pole) for the output v."""

    Config = RatioSignedPareConfig
    start = 1.0

    def _joint_loss(self, output: Tensor) -> Tensor:
        return output.square() / self.config.pole - 2 * output

    def _reference_loss(self, output: Tensor) -> Tensor:
        return output.square()

    def _meaning(self, output: Tensor) -> SignedLog:
        rest = 1 - output / self.config.pole
        return SignedLog(output.sign() * rest.sign(), output.abs().log() - rest.abs().log())
