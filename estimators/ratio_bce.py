"""Neural ratio estimation: a classifier between p(x, theta) and p(x) p(theta).

Cranmer, Pavez, Louppe 2015, arXiv:1506.02169 (CARL), eqs. 4 and 5; amortised over theta as in
Hermans, Begy, Louppe 2020, arXiv:1903.04057, algorithm 1. The logit of the best classifier is
log p(x, theta) / (p(x) p(theta)). With template designs p(theta) is the discrete distribution of the
design's points, and theta between them is interpolated by the network.

Weights: the weighted events represent p(x, theta) = sum_i w_i delta_i / W. The product of its
marginals is sum_ij w_i w_j delta(x_i) delta(theta_j) / W^2. Pairing i with a random j != i picks
each pair with the same chance, so the weight w_i w_j / mean(w) gives that class the same total W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.normalisation import EvidenceRatio, Normalise
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.toys.base import Events, EventSource, ToySpec, collect


@dataclass
class RatioBceConfig:
    """Options of `RatioBce`.

    Attributes:
        hidden: widths of the hidden layers (SiLU).
        normalise: ``local`` keeps reference events for the normalisation in fits, ``none`` does not.
        reference_events: at most that many training events are kept.
    """

    hidden: tuple[PositiveInt, ...] = (128, 128, 128)
    normalise: Normalise = "local"
    reference_events: PositiveInt = 20_000


class RatioBce(EvidenceRatio):
    """The logit of a classifier of (x, theta) pairs, trained by weighted binary cross-entropy."""

    Config = RatioBceConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})

    mean_weight: Tensor

    def __init__(self, spec: ToySpec, config: RatioBceConfig) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.network = mlp(self.standardise_x.dim + self.standardise_theta.dim, 1, config.hidden)
        self.register_buffer("mean_weight", torch.ones(()))
        self._register_reference(config.normalise)

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.standardise_x.learn(events.x, events.weight)
        self.standardise_theta.learn(events.theta, events.weight)
        self.keep_reference(events, self.config.reference_events)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        weight = events.weight / self.mean_weight
        partner = random_partner(len(events), generator).to(events.x.device)
        joint = softplus(-self._log_evidence_ratio(events.x, events.theta))
        marginal = softplus(self._log_evidence_ratio(events.x, events.theta[partner]))
        return weight * joint + weight * weight[partner] * marginal

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.network(torch.cat([self.standardise_x(x), self.standardise_theta(theta)], -1)).squeeze(-1)


def random_partner(n: int, generator: torch.Generator) -> Tensor:
    """For each event another one, uniformly among the others, each chosen once: shape (n,).

    An event paired with itself would be a joint pair in the marginal class, and with batches of n
    events bound the learned ratio by n.
    """
    order = torch.randperm(n, generator=generator, device=generator.device)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner
