"""Signed ratios by REVERT: a bounded output that stands for any real ratio, trained by a convex loss.

Drnevich, Jiggins, Katzy, Cranmer 2025, arXiv:2512.19913: an output s in (0, 1), the loss s in the signed class and
-log s - log(1 - s) in the reference class. Its best s has ratio (1 - 2s) / (s (1 - s)), which reaches all of R, and
it is convex in s where the reference density is positive, whatever the sign of the other. With the logit z of
1 - s the ratio is 2 sinh z: linear around 0, exponential beyond, where the loss is a classifier's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.estimators.signed_network import SignedNetwork, SignedNetworkConfig
from touchneedle.estimators.signed_ratio import SignedLog


@dataclass
class RatioSignedRevertConfig(SignedNetworkConfig):
    """Options of `RatioSignedRevert`: those of its network."""


class RatioSignedRevert(SignedNetwork):
    """rho = 2 sinh z for the output z."""

    Config = RatioSignedRevertConfig
    start = math.asinh(0.5)

    def _joint_loss(self, output: Tensor) -> Tensor:
        return revert_signed(output)

    def _reference_loss(self, output: Tensor) -> Tensor:
        return revert_reference(output)

    def _meaning(self, output: Tensor) -> SignedLog:
        size = output.abs()
        return SignedLog(output.sign(), size + (-torch.expm1(-2 * size)).log())


def revert_signed(z: Tensor) -> Tensor:
    """Loss in the signed class: s = 1 / (1 + exp(z)), for the ratio 2 sinh z."""
    return torch.sigmoid(-z)


def revert_reference(z: Tensor) -> Tensor:
    """Loss in the reference class: -log s - log(1 - s)."""
    return softplus(z) + softplus(-z)
