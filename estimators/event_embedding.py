"""Event embedding: log r = s(x) . [pi(theta) - pi(theta_0)], bilinear in a summary of the event and an embedding of theta.

After event2vec (github.com/nsmith-/event2vec). Densities of an exponential family, p(x|theta) ~ exp(s(x) . pi(theta)), are of this
form; any other ratio is approximated as more dimensions are given, up to the rank of log r as a matrix over x and theta. Trained by the
cross-entropy of `ratio_bce`, which also needs what depends on x or theta alone:

    log p(x|theta) / p(x) = s(x) . pi(theta) + a(x) + b(theta)

a cancels in log_ratio, b is pi's entry for a summary that is 1. With ``kind="softmax"`` the summaries are shares of an event in soft
bins that the training chooses, and pi(theta) are the log ratios of the bins. The summary of an event is computed once for all theta: a fit
costs one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, cross_entropy
from touchneedle.toys.base import Events, ToySpec


@dataclass
class EventEmbeddingConfig(RatioNetworkConfig):
    """Options of `EventEmbedding`: those of every `RatioNetwork`, for both networks, and the bilinear form.

    Attributes:
        dimensions: entries of s(x) and pi(theta).
        kind: ``linear`` summaries are any numbers, ``softmax`` ones are positive and add up to 1.
    """

    dimensions: PositiveInt = 8
    kind: Literal["linear", "softmax"] = "linear"


class EventEmbedding(RatioNetwork):
    """Two networks, one of x and one of theta, joined by a scalar product.

    Which kind is better depends on the toy: with 10,000 events the RMSE of log_ratio (linear, softmax; `ratio_bce`) was 0.109, 0.090;
    0.124 on ``mixture_weights``, whose components are such shares, but 0.213, 0.297; 0.277 on ``eft_quadratic`` (one seed).
    """

    Config = EventEmbeddingConfig
    linear = True

    def __init__(self, spec: ToySpec, config: EventEmbeddingConfig) -> None:
        super().__init__(spec, config)
        self.embedding_network = mlp(self.standardise_theta.dim, config.dimensions + 1, config.hidden)

    def summary(self, x: Tensor) -> Tensor:
        """s(x) and a constant 1, shape (n, dimensions + 1)."""
        return self._summary(self._cast(x))[:, :-1]

    def embedding(self, theta: Tensor) -> Tensor:
        """pi(theta) - pi(theta_0) with b(theta) - b(theta_0) as last entry, shape (m, dimensions + 1)."""
        theta = self._cast(theta)
        return (self._embedding(theta) - self._embedding(self.nominal.expand_as(theta)))[:, :-1]

    def _build_network(self) -> nn.Module:
        return mlp(self.standardise_x.dim, self.config.dimensions + 1, self.config.hidden)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return cross_entropy(self._pairs(events, generator))

    def _linear_terms(self, x: Tensor) -> Tensor:
        return self._summary(x)[:, :-1]

    def _linear_coefficients(self, theta: Tensor) -> Tensor:
        return self._embedding(theta)[:, :-1]

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return (self._summary(x) * self._embedding(theta)).sum(-1)

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._summary(x) @ self._embedding(theta).T

    def _summary(self, x: Tensor) -> Tensor:
        """s(x), 1 and a(x), shape (n, dimensions + 2)."""
        output = self.network(self.standardise_x(x))
        s, alone = output[:, :-1], output[:, -1:]
        if self.config.kind == "softmax":
            s = s.softmax(-1)
        return torch.cat([s, torch.ones_like(alone), alone], -1)

    def _embedding(self, theta: Tensor) -> Tensor:
        """pi(theta), b(theta) and 1, shape (m, dimensions + 2)."""
        output = self.embedding_network(self.standardise_theta(theta))
        return torch.cat([output, torch.ones_like(output[:, :1])], -1)
