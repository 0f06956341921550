"""Linear ensemble with known error (wifi): classifiers f_i on bootstraps of the events, log r = w_0 + sum_i w_i f_i(x, theta).

Benevedes, Thaler et al. 2025, arXiv:2506.00113, with theta as an input. Each f_i is trained as `ratio_bce` on its own Poisson
bootstrap (or part) of the training events; the weights w minimise a convex loss on the validation events, by Newton
(`linear_weights`). As they are a fit with few parameters, their covariance C is known (sandwich formula), and with it the covariance
of log_ratio over retrainings: d C d', d_i = f_i(x, theta) - f_i(x, theta_0). `touchneedle.inference.network_error` propagates it
to fitted parameters. It holds where some linear combination of the f_i is the exact ratio; a bias that they share is not seen.

The symmetrised likelihood loss of the paper needs E[1 / r^2] and E[r^2], which exist for classes that are close (there N(-0.1, 1)
and N(0.1, 1)). With theta from a wide prior they need not, hence the default of the cross-entropy, whose slopes are bounded: for
x ~ N(mu, 1), mu ~ N(0, 0.5), the RMSE of log_ratio over eight trainings was 0.027 with it, 0.033 with the other.
Pairs of class 0 are x with the theta of other events; what an event adds to the gradient, as x and as theta, is counted once per
event, so that pairs need not be independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from touchneedle.estimators.bootstrap import partition, poisson_copies
from touchneedle.estimators.linear_weights import Features, LossName, fit_weights, sandwich, square_root
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, next_partners, random_partner
from touchneedle.estimators.standardise import require_positive
from touchneedle.toys.base import Events, EventSource, ToySpec

# Other theta for each x of the validation events.
_PARTNERS = 8
# Batches of reference events, whose spread is the error of their mean.
_BATCHES = 50
_SPLITS = {"bootstrap": poisson_copies, "partition": partition}


@dataclass
class RatioWifiConfig(RatioNetworkConfig):
    """Options of `RatioWifi`: those of every `RatioNetwork`, for each member, and the ensemble.

    Attributes:
        members: number M of classifiers.
        split: ``bootstrap`` gives each member Poisson copies of all training events, ``partition`` an M-th of them.
        weight_loss: loss of the weights: ``cross_entropy``, or ``likelihood`` as in the paper.
    """

    hidden: tuple[PositiveInt, ...] = (64, 64)
    members: PositiveInt = 8
    split: Literal["bootstrap", "partition"] = "bootstrap"
    weight_loss: LossName = "cross_entropy"


class RatioWifi(RatioNetwork):
    """A weighted sum of classifiers. Needs events of positive weight: `prepare` raises `SkipCell` for others."""

    Config = RatioWifiConfig

    network: nn.ModuleList
    weights: Tensor
    weight_factor: Tensor

    def __init__(self, spec: ToySpec, config: RatioWifiConfig) -> None:
        super().__init__(spec, config)
        # The mean of the members, without error, until the weights are fitted.
        weights = torch.full((config.members + 1,), 1 / config.members)
        weights[0] = 0
        self.register_buffer("weights", weights)
        self.register_buffer("weight_factor", torch.zeros(config.members + 1, config.members + 1))

    def log_ratio_modes(self, x: Tensor, theta: Tensor) -> Tensor:
        """Changes of log_ratio by one standard deviation along each of k = M + 1 independent directions of the weights, shape (n, k)."""
        return self._in_chunks(self._modes, x, theta)

    def log_ratio_covariance(self, x: Tensor, theta: Tensor) -> Tensor:
        """Covariance (n, n) of log_ratio of pairs x (n, d), theta (n, p) over retrainings."""
        modes = self.log_ratio_modes(x, theta)
        return modes @ modes.T

    def log_ratio_variance(self, x: Tensor, theta: Tensor) -> Tensor:
        """Variance (n,) of log_ratio over retrainings: the diagonal of `log_ratio_covariance`."""
        return self.log_ratio_modes(x, theta).square().sum(-1)

    def log_normalisation_modes(self, theta: Tensor) -> Tensor:
        """Changes of `log_normalisation` at theta (m, p), shape (m, k + 50): along the directions of `log_ratio_modes`, then its own.

        The latter are the error of a mean over finitely many reference events, from the spread of 50 batches of them.
        """
        if self.normalise == "none":
            return torch.zeros(len(theta), len(self.weights), dtype=torch.float64, device=self.device)
        theta = self._cast(theta)
        modes = torch.stack([self._mean_modes(point) for point in torch.cat([self.nominal[None], theta])])
        return modes[1:] - modes[0]

    def finish(self, validation: Events) -> None:
        """Fit the weights on validation events, and learn their covariance."""
        with torch.no_grad():
            features = self._pair_features(self._cast_events(validation))
        loss = self.config.weight_loss
        w = fit_weights(features, self.weights.double(), loss)
        numerator, denominator = features.slopes(w, loss)
        as_theta = sum(slopes.roll(shift, 0) for shift, slopes in enumerate(denominator, start=1))
        covariance = sandwich(features.hessian(w, loss), numerator + denominator.sum(0) + as_theta)
        self.weights = w.to(self.weights)
        self.weight_factor = square_root(covariance).to(self.weight_factor)

    def _build_network(self) -> nn.Module:
        inputs = self.standardise_x.dim + self.standardise_theta.dim
        return nn.ModuleList(mlp(inputs, 1, self.config.hidden) for _ in range(self.config.members))

    def _prepare(self, source: EventSource) -> None:
        require_positive(source, "ratio_wifi needs events of positive weight, for its loss to be convex in the weights of its members")
        super()._prepare(source)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        weight = events.weight / self.mean_weight
        partner = random_partner(len(events), generator).to(events.x.device)
        joint = softplus(-self._members(events.x, events.theta))
        marginal = softplus(self._members(events.x, events.theta[partner]))
        copies = _SPLITS[self.config.split](events.x, events.theta, self.config.members)
        # The copies are those of x: theta of class 0 comes from all events, as from the prior.
        return weight * (copies * (joint + weight[partner, None] * marginal)).mean(1)

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._features(x, theta) @ self.weights

    def _members(self, x: Tensor, theta: Tensor) -> Tensor:
        """log r of every member, shape (n, M)."""
        inputs = torch.cat([self.standardise_x(x), self.standardise_theta(theta)], -1)
        return torch.cat([network(inputs) for network in self.network], -1)

    def _features(self, x: Tensor, theta: Tensor) -> Tensor:
        """1, and log r of every member: shape (n, M + 1)."""
        members = self._members(x, theta)
        return torch.cat([torch.ones_like(members[:, :1]), members], -1)

    def _modes(self, x: Tensor, theta: Tensor) -> Tensor:
        return (self._features(x, theta) - self._features(x, self.nominal.expand_as(theta))) @ self.weight_factor

    def _mean_modes(self, point: Tensor) -> Tensor:
        """Modes of log E[r] over the reference events at one point (p,), shape (k + batches,)."""
        features = self._in_chunks(self._features, self.reference_x, point)
        share = (self.reference_weight.double().log() + features @ self.weights.double()).softmax(0)
        # Events of a batch lie apart, so that an order among them does no harm.
        batch = torch.arange(len(share), device=self.device) % _BATCHES
        shares = torch.zeros(_BATCHES, dtype=torch.float64, device=self.device).index_add_(0, batch, share)
        return torch.cat([share @ features @ self.weight_factor.double(), (shares - 1 / _BATCHES) * (_BATCHES / (_BATCHES - 1)) ** 0.5])

    def _pair_features(self, events: Events) -> Features:
        """Features of the joint pairs, and of each x with the theta of the next events as they lie."""
        weight = events.weight.double() / events.weight.double().mean()
        partners = next_partners(len(events), _PARTNERS).to(events.x.device)
        each = [self._in_chunks(self._features, events.x, events.theta[of]) for of in (slice(None), *partners)]
        return Features(each[0], torch.stack(each[1:]), weight, weight * weight[partners])
