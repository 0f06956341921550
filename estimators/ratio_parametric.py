"""Parametric ratio: log r is a polynomial in the nuisances, cross terms included, with coefficients from a network.

    log r(x, mu, nu) = Delta_1(x, mu) + sum_A Delta_A(x, mu) z_A,   z = (nu - nu_0) / width

mu are the parameters of interest, z_A all products of up to ``degree`` of the nuisances z. One network
of (x, mu) gives all coefficients. Its first output is the ratio at nominal nuisances, where the other
terms vanish: log r(x|mu, nu) = log r(x|mu, nu_0) + Delta(x, mu) . z_A (Schoefbeck 2024, arXiv:2406.19076;
Benato et al. 2025, arXiv:2505.05544 (GOLLUM), whose Delta depends on x alone). Unlike there, mu and nu
are learned at once, by the cross-entropy of `ratio_bce` between joint and shuffled pairs: its optimum is
the same, so that any spread of training points will do. The last layer starts at zero, hence a term that
the design never excites (cross terms with design ``templates``) stays zero: nuisances then factorise.

Without parameters of interest (one process, whose rate alone they move) the network sees x alone. Its last layer is
linear, so that log r = [h(x), 1] . W z_A with the last hidden layer h: a fit costs one pass over the events, and as
many numbers an event as h is wide, however many products there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from touchneedle.estimators.monomials import count_monomials, monomials
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, cross_entropy
from touchneedle.toys.base import Events, ToySpec


@dataclass
class RatioParametricConfig(RatioNetworkConfig):
    """Options of `RatioParametric`: those of every `RatioNetwork`, and the degree.

    Attributes:
        degree: degree of the polynomial in the nuisances.
    """

    degree: PositiveInt = 2


class RatioParametric(RatioNetwork):
    """A classifier whose logit is linear in the monomials of the nuisances."""

    Config = RatioParametricConfig

    def __init__(self, spec: ToySpec, config: RatioParametricConfig) -> None:
        super().__init__(spec, config)
        self.linear = not self.interest

    def _build_network(self) -> nn.Module:
        terms = count_monomials(len(self.nuisance), self.config.degree)
        network = mlp(self.standardise_x.dim + len(self.interest), terms, self.config.hidden)
        for parameter in network[-1].parameters():
            nn.init.zeros_(parameter)
        return network

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return cross_entropy(self._pairs(events, generator))

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        mu = self.standardise_theta(theta)[:, self.interest]
        coefficients = self.network(torch.cat([self.standardise_x(x), mu], -1))
        return (coefficients * self._products(theta)).sum(-1)

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        if self.linear:
            return self._linear_terms(x) @ self._linear_coefficients(theta).T
        return super()._log_evidence_ratio_grid(x, theta)

    def _linear_terms(self, x: Tensor) -> Tensor:
        hidden = self._layers[:-1](self.standardise_x(x))
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], -1)

    def _linear_coefficients(self, theta: Tensor) -> Tensor:
        last = cast(nn.Linear, self._layers[-1])
        return self._products(theta) @ torch.cat([last.weight, last.bias[:, None]], -1)

    @property
    def _layers(self) -> nn.Sequential:
        return cast(nn.Sequential, self.network)

    def _products(self, theta: Tensor) -> Tensor:
        """z_A at theta (n, p), shape (n, terms)."""
        z = ((theta - self.nominal) / self.standardise_theta.std)[:, self.nuisance]
        return monomials(z, self.config.degree)
