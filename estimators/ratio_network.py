"""What the ratio estimators share: one network of (x, theta), and pairs of events for two classes.

log r(x, theta) = log p(x, theta) / (p(x) p(theta)) is the output of a multilayer perceptron on
standardised x and theta. A variant differs from another by its loss alone: each has its optimum at
log r (Cranmer, Pavez, Louppe 2015, arXiv:1506.02169; losses compared: Rizvi, Pettee, Nachman 2023,
arXiv:2305.10500).

Weights: the weighted events represent p(x, theta) = sum_i w_i delta_i / W. The product of its
marginals is sum_ij w_i w_j delta(x_i) delta(theta_j) / W^2. Pairing i with a random j != i picks
each pair with the same chance, so the weight w_i w_j / mean(w) gives that class the same total W.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.normalisation import EvidenceRatio, Normalise
from touchneedle.estimators.pairs import on_pairs
from touchneedle.estimators.standardise import Standardise, learn_in_one_pass
from touchneedle.toys.base import Events, EventSource, ToySpec


@dataclass
class RatioNetworkConfig:
    """Options of every `RatioNetwork`.

    Attributes:
        hidden: widths of the hidden layers (SiLU).
        normalise: ``local`` keeps reference events for the normalisation in fits, ``none`` does not.
        reference_events: at most that many training events are kept.
    """

    hidden: tuple[PositiveInt, ...] = (128, 128, 128)
    normalise: Normalise = "local"
    reference_events: PositiveInt = 20_000


class Pairs(NamedTuple):
    """log r of joint pairs (x_i, theta_i) and of marginal pairs (x_i, theta_j), each (n,), with weights of mean 1."""

    joint: Tensor
    marginal: Tensor
    joint_weight: Tensor
    marginal_weight: Tensor


class RatioNetwork(EvidenceRatio):
    """Abstract. log r by a network of (x, theta); write ``_loss``, usually on ``_pairs``."""

    Config: ClassVar[type] = RatioNetworkConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})

    mean_weight: Tensor

    def __init__(self, spec: ToySpec, config: RatioNetworkConfig) -> None:
        super().__init__(spec, config)
        self.interest, self.nuisance = list(spec.parameters.interest), list(spec.parameters.nuisance)
        self.standardise_x = Standardise.of_features(spec.features)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.network = self._build_network()
        self.register_buffer("mean_weight", torch.ones(()))
        self._register_reference(config.normalise)

    def _build_network(self) -> nn.Module:
        return mlp(self.standardise_x.dim + self.standardise_theta.dim, 1, self.config.hidden)

    def _prepare(self, source: EventSource) -> None:
        learned = (self.standardise_x, attrgetter("x")), (self.standardise_theta, attrgetter("theta"))
        self.mean_weight = learn_in_one_pass(source, *learned).to(self.mean_weight)
        self.keep_reference(source, self.config.reference_events)

    def _pairs(self, events: Events, generator: torch.Generator) -> Pairs:
        """The events as joint pairs, and each x with the theta of another event as marginal pairs."""
        weight = events.weight / self.mean_weight
        partner = random_partner(len(events), generator).to(events.x.device)
        joint = self._log_evidence_ratio(events.x, events.theta)
        marginal = self._log_evidence_ratio(events.x, events.theta[partner])
        return Pairs(joint, marginal, weight, weight * weight[partner])

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._calibrated(self._network_of(self.standardise_x(x), self.standardise_theta(theta)))

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        if type(self)._log_evidence_ratio is not RatioNetwork._log_evidence_ratio:
            return super()._log_evidence_ratio_grid(x, theta)
        return self._calibrated(on_pairs(self._network_of, self.standardise_x(x), self.standardise_theta(theta)))

    def _network_of(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.network(torch.cat([x, theta], -1)).squeeze(-1)

    def _calibrated(self, log_r: Tensor) -> Tensor:
        """log r from what the network says, elementwise."""
        return log_r


def cross_entropy(pairs: Pairs) -> Tensor:
    """Weighted binary cross-entropy of the two classes per event, shape (n,): arXiv:1506.02169, eq. 5."""
    return pairs.joint_weight * softplus(-pairs.joint) + pairs.marginal_weight * softplus(pairs.marginal)


def random_partner(n: int, generator: torch.Generator) -> Tensor:
    """For each event another one, uniformly among the others, each chosen once: shape (n,).

    An event paired with itself would be a joint pair in the marginal class, and with batches of n
    events bound the learned ratio by n.
    """
    return random_partners(n, 1, generator)[0]


def random_partners(n: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different partners of each event, at most n - 1 (at least one): shape (count, n); see `random_partner`."""
    order = torch.randperm(n, generator=generator, device=generator.device)
    partners = order.new_empty(max(1, min(count, n - 1)), n)
    for shift, partner in enumerate(partners, start=1):
        partner[order] = order.roll(shift)
    return partners


def next_partners(n: int, count: int) -> Tensor:
    """For each event the ``count`` that follow it in a circle, at most n - 1: shape (count, n); for methods that draw no random numbers."""
    return torch.stack([torch.arange(n).roll(-shift) for shift in range(1, max(1, min(count, n - 1)) + 1)])
