"""A network whose output stands for a signed ratio, trained by a loss that leaves room for either sign.

The output is z(x, theta) = b(x) + f(x, theta) - f(x, theta_0) with b > 0, and a monotone function of z with the
sign of z is rho(x, theta) (see `touchneedle.estimators.signed_ratio`). So the learned density is positive at
theta_0 by construction and the ratio has no poles. b starts where rho is 1.

Weights: the joint class has weight w_i. The reference class pairs x_i with the theta_j of another event and has
weight |w_i|, so that the loss is bounded below on every finite set of events and not only in the mean, as it would
be with |w_i| w_j. It takes for granted that events have the same mean weight at every theta, as those of a design do;
otherwise rho is multiplied by that mean, which the local normalisation divides out in fits. On ``signed_mixture`` with
100,000 events and two hidden layers of 64, two seeds each, |w_i| had an RMSE of the ratio of 0.39 and 0.30 (REVERT),
|w_i| w_j of 0.43 and 0.34, for a ratio of RMS 1.28.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetworkConfig, random_partner
from touchneedle.estimators.signed_ratio import SignedLog, SignedRatio
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.toys.base import Events, EventSource, ToySpec, collect

# b is at least softplus of it, 2e-22, so that the ratio of events far outside the data is finite in float32.
_FLOOR = -50.0


@dataclass
class SignedNetworkConfig(RatioNetworkConfig):
    """Options of every `SignedNetwork`: those of `RatioNetworkConfig`, for both networks."""


class SignedNetwork(SignedRatio):
    """Abstract. One output per pair (x, theta), what it stands for, and the loss that makes it so.

    Attributes:
        start: the b of an untrained network whose outputs are 0, where rho is about 1.
    """

    start: ClassVar[float]

    mean_weight: Tensor
    mean_absolute: Tensor

    def __init__(self, spec: ToySpec, config: SignedNetworkConfig) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.network = mlp(self.standardise_x.dim + self.standardise_theta.dim, 1, config.hidden)
        self.baseline = mlp(self.standardise_x.dim, 1, config.hidden)
        self.register_buffer("mean_weight", torch.ones(()))
        self.register_buffer("mean_absolute", torch.ones(()))
        self._register_reference(config.normalise)

    @abstractmethod
    def _joint_loss(self, output: Tensor) -> Tensor:
        """Loss of outputs in the signed joint class, shape (n,)."""

    @abstractmethod
    def _reference_loss(self, output: Tensor) -> Tensor:
        """Loss of outputs in the reference class, shape (n,)."""

    @abstractmethod
    def _meaning(self, output: Tensor) -> SignedLog:
        """rho that outputs stand for, of their shape."""

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.mean_absolute = mean_weight(events.weight.abs()).to(self.mean_absolute)
        self.standardise_x.learn(events.x, events.weight)
        self.standardise_theta.learn(events.theta, events.weight)
        self.keep_reference(events, self.config.reference_events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        weight, absolute = (
            events.weight / self.mean_weight,
            events.weight.abs() / self.mean_absolute,
        )
        partner = random_partner(len(events), generator).to(events.x.device)
        # One call for both classes: the parts that know x alone are shared.
        joint, reference = self._outputs(events.x, torch.stack([events.theta, events.theta[partner]], 1)).unbind(1)
        return weight * self._joint_loss(joint) + absolute * self._reference_loss(reference)

    def _rho(self, x: Tensor, theta: Tensor) -> SignedLog:
        return self._meaning(self._outputs(x, theta))

    def _outputs(self, x: Tensor, theta: Tensor) -> Tensor:
        """Outputs of x (n, d), each at its own m points theta (n, m, p): shape (n, m)."""
        x = self.standardise_x(x)
        every = torch.cat([self.nominal.expand(x.shape[0], 1, -1), theta], 1)
        every = self.standardise_theta(every.reshape(-1, self.spec.theta_dim)).reshape(every.shape)
        response = self.network(torch.cat([x[:, None].expand(-1, every.shape[1], -1), every], -1)).squeeze(-1)
        baseline = softplus((self.baseline(x) + _inverse_softplus(self.start)).clamp(min=_FLOOR))
        return baseline + response[:, 1:] - response[:, :1]


def _inverse_softplus(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).expm1().log())
