"""Optimal observables: the score at theta_0, learned by a classifier of joint against shuffled pairs.

    log r(x, theta) = a(x) + sum_k [t_k(x) z_k + q_k(x) z_k^2],   z = (theta - theta_0) / width

Its slope at theta_0 is t: near there nothing else of x matters for the parameters (Atwood, Soni 1992, Phys. Rev. D 45, 2405; Diehl,
Nachtmann 1994, Z. Phys. C 62, 397). Unlike `score_sally` it needs no joint score, and unlike there terms beyond z^2, as between
parameters, are lost: over a wide prior t is the slope of the best parabola.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import Pairs, random_partner
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.toys.base import Events, ToySpec


class OptimalObservable(nn.Module):
    """A network of x that gives a, t and q; t of the parameters of interest is the summary."""

    nominal: Tensor
    mean_weight: Tensor

    def __init__(self, spec: ToySpec, hidden: Sequence[int]) -> None:
        super().__init__()
        self.interest = list(spec.parameters.interest)
        self.standardise_x = Standardise.of_features(spec.features)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.network = mlp(self.standardise_x.dim, 1 + 2 * spec.theta_dim, hidden)
        self.register_buffer("nominal", spec.parameters.nominal.float())
        self.register_buffer("mean_weight", torch.ones(()))

    def learn(self, events: Events) -> None:
        """Standardise from training events."""
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.standardise_x.learn(events.x, events.weight)
        self.standardise_theta.learn(events.theta, events.weight)

    def forward(self, x: Tensor) -> Tensor:
        """t(x) of the parameters of interest, per width of their training events, shape (n, k)."""
        return self.network(self.standardise_x(x))[:, 1:][:, self.interest]

    def pairs(self, events: Events, generator: torch.Generator) -> Pairs:
        """log r of joint and of shuffled pairs, for a loss."""
        weight = events.weight / self.mean_weight
        partner = random_partner(len(events), generator).to(events.x.device)
        alone, linear, square = self.network(self.standardise_x(events.x)).split((1, *2 * [events.theta.shape[1]]), -1)
        z = (events.theta - self.nominal) / self.standardise_theta.std
        joint, marginal = (alone[:, 0] + (linear * each + square * each**2).sum(-1) for each in (z, z[partner]))
        return Pairs(joint, marginal, weight, weight * weight[partner])
