"""Linear combination of an ensemble with known error (wifi): log_ratio = sum_k w_k f_k.

The weights minimise the cross-entropy of a question that every estimator can answer: which of theta and theta' made x, for
validation events x at theta and the theta' of others. With d_k = f_k(x, theta) - f_k(x, theta'),

    L(w) = E[log(1 + exp(-w . d))]

is convex, and its optimum is the exact ratio where that is a combination of the members (after Benevedes, Thaler et al.
2025, arXiv:2506.00113; `ratio_wifi` trains its own members, and has a constant).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.estimators.linear_weights import Features, fit_weights, sandwich, square_root
from touchneedle.estimators.ratio_network import next_partners
from touchneedle.toys.base import Events

# Other theta for each x of the validation events.
_PARTNERS = 8


class WifiEnsemble(Ensemble):
    """A weighted sum of the members' log_ratio, and what the error of the weights does to it.

    Attributes:
        weights: w (K,); equal before `finish`.
        weight_factor: L (K, K) with L L^t = covariance of w.
    """

    weights: Tensor
    weight_factor: Tensor

    def __init__(self, members: Sequence[Estimator]) -> None:
        super().__init__(members)
        self.linear = False
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))
        self.register_buffer("weight_factor", torch.zeros(len(members), len(members)))

    def log_ratio_modes(self, x: Tensor, theta: Tensor) -> Tensor:
        """Changes of log_ratio by one standard deviation along K independent directions of the weights, shape (n, K)."""
        values = torch.stack([member.log_ratio(x, theta) for member in self.estimators], 1)
        return values @ self.weight_factor.to(values)

    def finish(self, validation: Events) -> None:
        """Fit the weights on validation events; raises `SkipCell` for negative weights, which spoil the convexity."""
        if bool((validation.weight < 0).any()):
            raise SkipCell("ensemble.combine=wifi needs events of positive weight, for its loss to be convex")
        with torch.no_grad():
            features = self._pair_features(validation)
        w = fit_weights(features, self.weights.double(), "cross_entropy")
        first, others = features.slopes(w, "cross_entropy")
        # An event acts as x in its own pairs, and as theta' in those of the events before it.
        as_theta = first.roll(1, 0) + sum(slopes.roll(shift, 0) for shift, slopes in enumerate(others, start=2))
        covariance = sandwich(features.hessian(w, "cross_entropy"), first + others.sum(0) + as_theta)
        self.weights = w.to(self.weights)
        self.weight_factor = square_root(covariance).to(self.weight_factor)

    def _pair_features(self, events: Events) -> Features:
        """d of the pairs of each x with the next theta, and of those with the further ones (of the other sign)."""
        own = self._values(events.x, events.theta)
        partners = next_partners(len(events), _PARTNERS)
        pairs = torch.stack([own - self._values(events.x, events.theta[of]) for of in partners])
        weight = events.weight.double() / events.weight.double().mean()
        both = weight * weight[partners]
        return Features(pairs[0], -pairs[1:], both[0], both[1:])

    def _values(self, x: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([member.log_ratio(x, theta) for member in self.estimators], 1)

    def _combined(self, values: list[Tensor]) -> Tensor:
        return torch.einsum("k...,k->...", torch.stack(values), self.weights.to(values[0]))
