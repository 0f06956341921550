"""SALLY: the score at theta_0 as locally optimal observables.

Brehmer, Cranmer, Louppe, Pavez 2018, arXiv:1805.00013 and arXiv:1805.00020. A network t(x) with one output per
parameter, trained on events of theta_0 by the squared error of their joint score, learns
E[t(x, z|theta_0) | x] = grad_theta log p(x|theta_0). With its information I = Cov[t] at theta_0, the ratio is the
local one of an asymptotically normal experiment (Le Cam 1960),

    log_ratio(x, theta) = t(x) . d - d . I d / 2,   d = theta - theta_0,

whose maximum over many events, theta_0 + I^-1 mean(t), is efficient as theta approaches theta_0. Far from nominal
it is no likelihood: events enter through t alone, terms of order d^2 in log p(x|theta) are missing, and intervals are
wrong as soon as they count. The second order of log E[exp(t . d)] stands for its whole, which need not exist: on
``eft_quadratic`` t grows like the energy and the mean diverges inside the prior. In fits the normalisation over
reference events (`log_normalisation`) gives the remainder near the best fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Capability, Design
from touchneedle.estimators.mined_gold import is_numerator, joint_score
from touchneedle.estimators.networks import mlp
from touchneedle.estimators.normalisation import NominalRatio, Normalise
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.toys.base import Events, EventSource, ToySpec, collect

# Scores below this, per prior width, are roundings: 1e12 events would not feel the parameter.
_NO_EFFECT = 1e-6


@dataclass
class ScoreSallyConfig:
    """Options of `ScoreSally`.

    Attributes:
        hidden: widths of the hidden layers (SiLU).
        normalise: ``local`` keeps reference events for the normalisation in fits, ``none`` fits theta_0 + I^-1 mean(t).
        reference_events: at most that many training events are kept; mean and information of t come from them.
    """

    hidden: tuple[PositiveInt, ...] = (128, 128, 128)
    normalise: Normalise = "local"
    reference_events: PositiveInt = 20_000


class ScoreSally(NominalRatio):
    """The learned score at theta_0, with the local ratio that it gives."""

    Config = ScoreSallyConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"nominal"})

    mean_weight: Tensor
    scale: Tensor
    mean: Tensor
    information: Tensor

    def __init__(self, spec: ToySpec, config: ScoreSallyConfig) -> None:
        super().__init__(spec, config)
        self.standardise_x = Standardise.of_features(spec.features)
        self.network = mlp(self.standardise_x.dim, spec.theta_dim, config.hidden)
        self.register_buffer("mean_weight", torch.ones(()))
        self.register_buffer("scale", torch.ones(spec.theta_dim))
        self.register_buffer("mean", torch.zeros(spec.theta_dim))
        self.register_buffer("information", torch.eye(spec.theta_dim))
        self._register_reference(config.normalise)

    def observables(self, x: Tensor) -> Tensor:
        """t(x), the learned score at theta_0 less its mean there, shape (n, p); 0 for parameters that x does not feel there."""
        return self.network(self.standardise_x(x)) * self.scale - self.mean

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        self._require_nominal(events)
        self.mean_weight = mean_weight(events.weight).to(self.mean_weight)
        self.standardise_x.learn(events.x, events.weight)
        self.scale = self._score_scale(joint_score(events), events.weight).to(self.scale)
        self._store_reference(events, self.config.reference_events)
        self._learn_moments()

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        target = joint_score(events) / self.scale.where(self.scale > 0, torch.ones_like(self.scale))
        error = self.network(self.standardise_x(events.x)) - target
        return events.weight / self.mean_weight * error.square().mean(-1)

    def finish(self, validation: Events) -> None:
        """Mean and information of the trained observables."""
        self._learn_moments()

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        distance = theta - self.nominal
        return (self.observables(x) * distance).sum(-1) - self._half_square(distance)

    def _log_evidence_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        distance = theta - self.nominal
        return self.observables(x) @ distance.T - self._half_square(distance)

    def _half_square(self, distance: Tensor) -> Tensor:
        """d . I d / 2 of each distance (n, p), shape (n,)."""
        return 0.5 * ((distance @ self.information) * distance).sum(-1)

    def _learn_moments(self) -> None:
        with torch.no_grad():
            self.mean.zero_()
            observables = torch.cat([self.observables(part) for part in self.reference_x.split(self.rows_per_chunk)]).double()
            weight = self.reference_weight.double()
            mean = weight @ observables
            centred = observables - mean
            self.mean = mean.to(self.mean)
            self.information = (centred.T @ (weight[:, None] * centred)).to(self.information)

    def _score_scale(self, score: Tensor, weight: Tensor) -> Tensor:
        """Root mean square of the joint score (n, p), shape (p,); 0 where it is rounding, as for a parameter without effect."""
        scale = (weight.double() @ score.double().square() / weight.double().sum()).sqrt()
        space = self.spec.parameters
        half = torch.full((len(space),), 0.5, dtype=torch.float64)
        width = space.from_normal(half) - space.from_normal(-half)
        return scale.where(scale * width.to(scale.device) > _NO_EFFECT, torch.zeros_like(scale))

    def _require_nominal(self, events: Events) -> None:
        nominal = self.spec.parameters.nominal.to(events.theta)
        if not bool((is_numerator(events) & (events.theta == nominal).all(-1)).all()):
            raise InputError("events: score_sally expected all of them from theta_0 (design nominal); got others")
