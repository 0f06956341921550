"""Signed ratios from a mixture of signed parts: classifiers of positive densities, and coefficients that combine them.

Drnevich, Jiggins, Katzy, Cranmer 2024, arXiv:2410.10216 (RoSMM): events of positive and of negative weight have
positive densities q+ and q-, and the signed density is q = c q+ + (1 - c) q- with c = W+ / W >= 1. Each of the four
quotients between q+- of two hypotheses is an ordinary classifier's. Here theta is an input: two classifiers learn

    q+(x|theta) / g(x) and q-(x|theta) / g(x),

and the four quotients are theirs at theta and at theta_0. The reference g(x), the marginal of x under absolute
weights, cancels in the ratio. The odds (c - 1) / c = W- / W+ < 1 are a third network, of theta alone, which starts at
the odds of all training events. Without negative weights one classifier is left, and the method is `ratio_bce`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from touchneedle.estimators.base import Stage
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetworkConfig, random_partner
from touchneedle.estimators.ratio_signed_revert import revert_reference, revert_signed
from touchneedle.estimators.signed_ratio import SignedLog, SignedRatio
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.toys.base import Events, EventSource, ToySpec, collect

# exp of more would overflow float32 in the REVERT term, the only one that needs the ratio itself.
_LARGEST = 60.0


@dataclass
class RatioSignedMixtureConfig(RatioNetworkConfig):
    """Options of `RatioSignedMixture`: those of `RatioNetworkConfig`, for all networks, and the coefficients.

    Attributes:
        coefficients: ``fixed`` learns the odds as a classifier of the sign; ``tuned`` learns them by the REVERT loss of the
            combined ratio; ``refined`` adds that loss for all networks. The paper tunes and refines in later stages; here the
            losses are added, which have the same optimum.
    """

    coefficients: Literal["fixed", "tuned", "refined"] = "refined"


class RatioSignedMixture(SignedRatio):
    """rho = c q+ / g - (c - 1) q- / g = (exp d+ - odds exp d-) / (1 - odds), with logits d of classifiers against g."""

    Config = RatioSignedMixtureConfig

    mean_positive: Tensor
    mean_negative: Tensor

    def __init__(self, spec: ToySpec, config: RatioSignedMixtureConfig) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.standardise_theta = Standardise(spec.theta_dim)
        inputs = self.standardise_x.dim + self.standardise_theta.dim
        self.positive = mlp(inputs, 1, config.hidden)
        self.negative = mlp(inputs, 1, config.hidden)
        self.odds = mlp(self.standardise_theta.dim, 1, config.hidden)
        self.register_buffer("mean_positive", torch.ones(()))
        self.register_buffer("mean_negative", torch.zeros(()))
        self._register_reference(config.normalise)

    @property
    def has_negative(self) -> bool:
        """There were training events of negative weight."""
        return bool(self.mean_negative > 0)

    def stages(self) -> tuple[Stage, ...]:
        """One stage; without negative weights the first classifier alone is trained."""
        networks: tuple[nn.Module, ...] = (self.positive, self.negative, self.odds) if self.has_negative else (self.positive,)
        return (Stage("train", tuple(p for network in networks for p in network.parameters())),)

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        mean_weight(events.weight)  # refuses a sum that is not positive, where the odds would exceed 1
        self.mean_positive = events.weight.double().clamp(min=0).mean().to(self.mean_positive)
        self.mean_negative = (-events.weight.double()).clamp(min=0).mean().to(self.mean_negative)
        self.standardise_x.learn(events.x, events.weight)
        self.standardise_theta.learn(events.theta, events.weight)
        self.keep_reference(events, self.config.reference_events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        partner = random_partner(len(events), generator).to(events.x.device)
        theta = torch.stack([events.theta, events.theta[partner]], 1)
        absolute = events.weight.abs() / (self.mean_positive + self.mean_negative)
        weight = events.weight.clamp(min=0) / self.mean_positive
        plus = self._logits(self.positive, events.x, theta)
        loss = _classifier_loss(plus, weight, absolute * weight[partner])
        if not self.has_negative:
            return loss
        weight = (-events.weight).clamp(min=0) / self.mean_negative
        minus = self._logits(self.negative, events.x, theta)
        loss = loss + _classifier_loss(minus, weight, absolute * weight[partner])
        if self.config.coefficients == "fixed":
            return loss + absolute * _sign_loss(self._log_odds(theta[:, :1]).squeeze(1), events.weight)
        if self.config.coefficients == "tuned":
            plus, minus = plus.detach(), minus.detach()
        z = torch.asinh(_combined(plus, minus, self._log_odds(theta)) / 2)
        weight = events.weight / (self.mean_positive - self.mean_negative)
        return loss + weight * revert_signed(z[:, 0]) + absolute * revert_reference(z[:, 1])

    def _rho(self, x: Tensor, theta: Tensor) -> SignedLog:
        plus = self._logits(self.positive, x, theta)
        if not self.has_negative:
            return SignedLog(torch.ones_like(plus), plus)
        log_odds = self._log_odds(theta)
        minus = self._logits(self.negative, x, theta) + log_odds
        gap = plus - minus
        log_difference = torch.maximum(plus, minus) + (-torch.expm1(-gap.abs())).log()
        return SignedLog(gap.sign(), log_difference - (-torch.expm1(log_odds)).log())

    def _logits(self, network: nn.Module, x: Tensor, theta: Tensor) -> Tensor:
        """log of a part's density over g for x (n, d) at theta (n, m, p): shape (n, m)."""
        x = self.standardise_x(x)[:, None].expand(-1, theta.shape[1], -1)
        return network(torch.cat([x, self._scaled(theta)], -1)).squeeze(-1)

    def _log_odds(self, theta: Tensor) -> Tensor:
        """log of (c - 1) / c at theta (n, m, p), which is negative: shape (n, m)."""
        start = (self.mean_positive / self.mean_negative - 1).log()
        return -softplus(self.odds(self._scaled(theta)).squeeze(-1) + start)

    def _scaled(self, theta: Tensor) -> Tensor:
        return self.standardise_theta(theta.reshape(-1, self.spec.theta_dim)).reshape(theta.shape)


def _classifier_loss(logit: Tensor, part: Tensor, reference: Tensor) -> Tensor:
    """Weighted binary cross-entropy of logits (n, 2) of pairs in a part and in the reference."""
    return part * softplus(-logit[:, 0]) + reference * softplus(logit[:, 1])


def _sign_loss(log_odds: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of the sign of ``weight`` (n,): under |weight| its optimum is log W- / W+ at each theta."""
    return softplus(weight.sign() * log_odds)


def _combined(plus: Tensor, minus: Tensor, log_odds: Tensor) -> Tensor:
    """The number rho, where the logarithms of `SignedLog` would have a pole at 0."""
    return (plus.clamp(max=_LARGEST).exp() - (minus + log_odds).clamp(max=_LARGEST).exp()) / -torch.expm1(log_odds)
