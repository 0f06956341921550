"""Networks of log r(x|theta) against theta_0, regressed on mined gold: what ALICE, ALICES, ROLR and RASCAL share.

They differ in the loss of the ratio and in whether the score adds to it; see `touchneedle.estimators.mined_gold`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.mined_gold import class_scales, is_numerator, joint_log_ratio, joint_score, with_score_error
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.normalisation import NominalRatio
from touchneedle.estimators.ratio_network import RatioNetworkConfig
from touchneedle.estimators.standardise import Standardise
from touchneedle.toys.base import Events, EventSource, ToySpec, collect


@dataclass
class MinedRatioConfig(RatioNetworkConfig):
    """Options of every `MinedRatio`: those of `RatioNetworkConfig`; the reference events are of theta_0."""


class MinedRatio(NominalRatio):
    """Abstract. log r = sum_i (theta_i - theta_0i) g_i(x, theta) / width_i with a network g; write ``_ratio_loss``.

    Every smooth function that vanishes at theta_0 has this form (Hadamard's lemma), so log_ratio is 0 there by
    construction, in one pass; a difference net(x, theta) - net(x, theta_0) takes two. Local normalisation uses the events of theta_0.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"pairs"})

    class_scales: Tensor

    def __init__(self, spec: ToySpec, config: MinedRatioConfig) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.network = mlp(self.standardise_x.dim + spec.theta_dim, spec.theta_dim, config.hidden)
        self.register_buffer("class_scales", torch.ones(2))
        self._register_reference(config.normalise)

    @abstractmethod
    def _ratio_loss(self, learned: Tensor, joint: Tensor, numerator: Tensor) -> Tensor:
        """Loss of each event (n,): learned and joint log ratio (n,), and whether it was generated at theta (n,)."""

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        joint_log_ratio(events)
        numerator = is_numerator(events)
        self.class_scales = class_scales(events.weight, numerator).to(self.class_scales)
        self.standardise_x.learn(events.x, events.weight)
        self.standardise_theta.learn(events.theta, events.weight)
        self.keep_reference(events[~numerator], self.config.reference_events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return self._weighted_ratio_loss(self._log_evidence_ratio(events.x, events.theta), events)

    def _weighted_ratio_loss(self, learned: Tensor, events: Events) -> Tensor:
        numerator = is_numerator(events)
        return self._weight(events) * self._ratio_loss(learned, joint_log_ratio(events), numerator)

    def _weight(self, events: Events) -> Tensor:
        return events.weight * self.class_scales[is_numerator(events).long()]

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        slopes = self.network(torch.cat([self.standardise_x(x), self.standardise_theta(theta)], -1))
        return (slopes * (theta - self.nominal) / self.standardise_theta.std).sum(-1)


@dataclass
class MinedRatioScoreConfig(MinedRatioConfig):
    """Options of every `MinedRatioScore`.

    Attributes:
        score_weight: alpha, the weight of the score's mean squared error in units of the prior's widths.
    """

    score_weight: NonNegativeFloat = 1.0


class MinedRatioScore(MinedRatio):
    """Abstract. The loss of the ratio, plus alpha |grad_theta log r - t|^2 for the events of theta.

    Over them alone the mean of the joint score is the score.
    """

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        joint_score(events)
        super()._prepare(events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        learned, error = with_score_error(self._log_evidence_ratio, events, events.theta, self.standardise_theta.std)
        return self._weighted_ratio_loss(learned, events) + self.config.score_weight * self._weight(events) * error
