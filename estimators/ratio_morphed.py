"""Morphed ratios: classifiers of events at each nuisance's anchors, interpolated event by event by code 4.

    log r(x|mu, nu) = log r(x|mu, nu_0) + sum_k log w_k(x, mu, alpha_k)

For each nuisance a classifier of events at its upper anchor against events at nominal learns u_k(x, mu),
one at its lower anchor d_k(x, mu); w_k is u_k at alpha_k = 1, d_k at -1, 1 at nominal, between them the
polynomial of HistFactory code 4 (ATLAS 2024, arXiv:2412.01600, which trains one network for each; here
they are the outputs of one). The ratio at nominal nuisances is a further output: a classifier of joint
against shuffled pairs as in `ratio_bce`, of events at nominal nuisances alone.

Only single nuisances are seen off nominal: their product stands for joint variations. Weights: both
classes of every classifier have the same total.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from touchneedle.estimators.interpolation import log_interpolate_code4
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.ratio_network import RatioNetwork, RatioNetworkConfig, random_partner
from touchneedle.estimators.standardise import mean_weight
from touchneedle.estimators.templates import Templates
from touchneedle.toys.base import Events, EventSource, ToySpec, collect

# Largest |log ratio| of a template to nominal, approached smoothly: beyond it code 4 has no meaning, and would overflow.
_LARGEST_LOG_RATIO = 10.0


@dataclass
class RatioMorphedConfig(RatioNetworkConfig):
    """Options of `RatioMorphed`: those of every `RatioNetwork`."""


class RatioMorphed(RatioNetwork):
    """One network of (x, mu): the logit at nominal nuisances, then (down, up) of each nuisance.

    Needs events at the templates: `prepare` raises `SkipCell` naming the one that is missing. Design
    ``prior`` therefore works only for toys without nuisances; events at joint anchors are not used.
    """

    Config = RatioMorphedConfig

    template_weight: Tensor

    def __init__(self, spec: ToySpec, config: RatioMorphedConfig) -> None:
        super().__init__(spec, config)
        self.templates = self._make_templates()
        self.register_buffer("template_weight", torch.ones(len(self.templates)))

    def _make_templates(self) -> Templates:
        return Templates(self.spec.parameters, "ratio_morphed")

    def _build_network(self) -> nn.Module:
        return mlp(self.standardise_x.dim + len(self.interest), len(self._make_templates()), self.config.hidden)

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        members = self.templates.members(events.theta)
        self.templates.require_all(members)
        super()._prepare(events)
        shares = [mask.double().mean() * mean_weight(events.weight[mask]) for mask in members.T]
        self.template_weight = torch.stack(shares).to(self.template_weight)

    def keep_reference(self, source: EventSource, size: int) -> None:
        """Keep events at nominal nuisances: the denominator of the ratio."""
        events = collect(source)
        super().keep_reference(events[self.templates.members(events.theta)[:, 0]], size)

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        weight = events.weight[:, None] * self.templates.members(events.theta) / self.template_weight
        # The parameters of interest are spread alike in all templates, so that any event may lend its own.
        partner = random_partner(len(events), generator).to(events.x.device)
        joint, log_templates = self._outputs(events.x, events.theta)
        shuffled, _ = self._outputs(events.x, events.theta[partner])
        partner_weight = events.weight[partner] / self.mean_weight
        at_nominal = softplus(-joint) + partner_weight * softplus(shuffled) + softplus(log_templates).sum(1)
        return weight[:, 0] * at_nominal + (weight[:, 1:] * softplus(-log_templates)).sum(1)

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        at_nominal, log_templates = self._outputs(x, theta)
        down, up = log_templates[:, ::2], log_templates[:, 1::2]
        return at_nominal + log_interpolate_code4(self.templates.alpha(theta), up, down).sum(1)

    def _outputs(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """log r at nominal nuisances (n,), and log ratios of the other templates to nominal (n, t - 1)."""
        mu = self.standardise_theta(theta)[:, self.interest]
        output = self.network(torch.cat([self.standardise_x(x), mu], -1))
        return output[:, 0], _LARGEST_LOG_RATIO * torch.tanh(output[:, 1:] / _LARGEST_LOG_RATIO)
