"""Contrastive ratio estimation (NRE-C): which of K parameter points made this event, or none of them?

    q(none) = K / (K + gamma sum_k r_k),   q(k) = gamma r_k / (K + gamma sum_k r_k),   r_k = r(x, theta_k)
    loss = -E[log q(none)] over x independent of all theta_k - gamma E[log q(1)] over x of theta_1

Miller, Weniger, Forre 2022, arXiv:2210.06170, times 1 + gamma: with K = 1 and gamma = 1 it is the loss
of `ratio_bce`. Whatever K and gamma, the optimum is r itself, without the unknown factor of x alone that
a choice among K points without ``none`` leaves (Durkan, Murray, Papamakarios 2020, arXiv:2002.03712).

Weights: a set of theta stands with the product of its events' weights, as the pairs of `ratio_network`
do. It has the right expectation, but the effective sample shrinks by E[w^2] / E[w]^2 for each of the K:
with uneven weights choose few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, random_partners
from touchneedle.toys.base import Events


@dataclass
class RatioNreCConfig(RatioNetworkConfig):
    """Options of `RatioNreC`: those of every `RatioNetwork`, and the classes.

    Attributes:
        contrastive: number K of parameter points among which to choose; fewer in batches of less than K + 1 events.
        gamma: odds of any of them against none.
    """

    contrastive: PositiveInt = 5
    gamma: PositiveFloat = 1.0


class RatioNreC(RatioNetwork):
    """The log odds of the K + 1 classes, trained by weighted cross-entropy."""

    Config = RatioNreCConfig

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        n = len(events)
        partners = random_partners(n, self.config.contrastive, generator).to(events.x.device)
        chosen = torch.cat([torch.arange(n, device=partners.device)[None], partners])
        log_r = self._log_evidence_ratio(events.x.repeat(len(chosen), 1), events.theta[chosen.flatten()]).reshape(chosen.shape)
        # The weight of x with its first k partners, in row k.
        weight = (events.weight / self.mean_weight)[chosen].cumprod(0)
        none = -log_none(log_r[1:], self.config.gamma)
        one = -log_first(log_r[:-1], self.config.gamma)
        return weight[-1] * none + self.config.gamma * weight[-2] * one


def log_none(log_r: Tensor, gamma: float) -> Tensor:
    """log q(none) of log r of K points (K, n): shape (n,)."""
    return -softplus(log_r.logsumexp(0) + math.log(gamma / len(log_r)))


def log_first(log_r: Tensor, gamma: float) -> Tensor:
    """log q(1) of log r of K points (K, n): shape (n,)."""
    return log_none(log_r, gamma) + log_r[0] + math.log(gamma / len(log_r))
