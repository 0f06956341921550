"""Neural posterior score estimation, turned into a likelihood ratio by integrating scores.

Denoising score matching of u given x (Sharrock, Simons, Liu, Beaumont 2022, arXiv:2210.04872; Song et al. 2021,
arXiv:2011.13456), where u = spec.parameters.to_normal(theta) has the prior N(0, 1)^p. That prior stays what it is under the
diffusion of `touchneedle.estimators.diffusion`, so that the network learns posterior score minus prior score, the score of
the likelihood. At the smallest noise

    log_ratio(x, theta) = integral of that score along the straight line in u from theta_0 to theta

by Gauss-Legendre nodes (``network=score``), or the difference of a potential whose gradient the score is
(``network=potential``): no path, and no circulation. Densities and samples of the posterior come from the
probability flow. The posterior of a set of events is composed of their scores, prior + sum_i (posterior_i - prior)
(Geffner, Papamakarios, Mnih 2023, arXiv:2209.14249): see `touchneedle.estimators.posterior_composition`.

Fits subtract log E[exp log_ratio] over p(x|theta_0). Training events come from p(x); they are weighted by
p(x|theta_0) / p(x) = q(theta_0|x) / prior(theta_0), by the probability flow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from touchneedle.estimators.base import Capability
from touchneedle.estimators.diffusion import TIME_FEATURES, DiffusionConfig, DiffusionField, angle_nodes
from touchneedle.estimators.field_network import FieldNetwork, PotentialNetwork
from touchneedle.estimators.flow_ode import FlowOde, OdeConfig
from touchneedle.estimators.normalisation import NominalRatio, Normalise
from touchneedle.estimators.posterior_composition import SetField, draw_along_noise
from touchneedle.estimators.posterior_density import PosteriorDensity
from touchneedle.toys.base import Events, ToySpec


@dataclass
class PosteriorScoreConfig(DiffusionConfig, OdeConfig):
    """Options of `PosteriorScore`, beside those of the diffusion and of its probability flow.

    Attributes:
        network: ``score`` learns the score, ``potential`` a function whose gradient it is.
        nodes: Gauss-Legendre nodes of the path from theta_0 to theta, for ``network=score``.
        sampler: posterior draws by the probability flow (``ode``) or by its stochastic sibling (``sde``).
        levels: noise levels of the ``sde`` sampler, and of sets of events.
        corrections: Langevin steps at each level, for sets of several events.
        normalise: ``local`` keeps reference events for the normalisation in fits, ``none`` does not.
        reference_events: at most that many training events are kept.
    """

    network: Literal["score", "potential"] = "score"
    nodes: PositiveInt = 8
    sampler: Literal["ode", "sde"] = "ode"
    levels: PositiveInt = 64
    corrections: NonNegativeInt = 5
    normalise: Normalise = "local"
    reference_events: PositiveInt = 20_000


class PosteriorScore(NominalRatio, PosteriorDensity):
    """The score of the diffused posterior, over that of the prior."""

    Config = PosteriorScoreConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score", "posterior_log_prob", "posterior_sample"})

    def __init__(self, spec: ToySpec, config: PosteriorScoreConfig) -> None:
        super().__init__(spec, config)
        kind = FieldNetwork if config.network == "score" else PotentialNetwork
        self.field = DiffusionField(kind(spec.theta_dim, TIME_FEATURES, self.standardise_x.dim, config.hidden), config)
        self.ode = FlowOde(config, lambda steps: angle_nodes(config.sigma_min, steps))
        self.angle = math.atan(config.sigma_min)
        nodes, weights = np.polynomial.legendre.leggauss(config.nodes)
        self.path = [(0.5 * (1 + node), 0.5 * weight) for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)]

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        error = self.field.loss(self._to_normal(events.theta), self.standardise_x(events.x), generator)
        return events.weight / self.mean_weight * error

    def finish(self, validation: Events) -> None:
        """Settle the steps of the probability flow, and give the reference events their weights at theta_0."""
        with torch.no_grad():
            u, x = self._to_normal(self._cast(validation.theta)), self._cast(validation.x)
            self.ode.settle(lambda steps: self._log_density(u, x, steps))
            self._move_reference_to_nominal()

    def score(self, x: Tensor, theta: Tensor) -> Tensor:
        """grad_theta log p(x|theta), shape (n, p): the network's own, which need not be the gradient of ``log_ratio``."""
        home = x.device
        x, theta = self._checked(x, theta)
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            u = self._to_normal(theta)
            # u_k depends on theta_k alone.
            (slope,) = torch.autograd.grad(u.sum(), theta)
        return (self.field.score_over_normal(u.detach(), self.angle, self._encode(x)) * slope).double().to(home)

    def cost(self) -> dict[str, float | int]:
        """Steps and evaluations of the network that its answers take."""
        nodes = self.config.nodes if self.config.network == "score" else 1
        return {"path_nodes": nodes, **self.ode.cost()}

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        code, u = self._encode(x), self._to_normal(theta)
        start = self._to_normal(self.nominal.expand_as(theta))
        if self.config.network == "potential":
            there, here = (self.field.log_density_over_normal(point, self.angle, code) for point in (u, start))
            return there - here
        parts = [weight * self.field.score_over_normal(start + node * (u - start), self.angle, code) for node, weight in self.path]
        return (torch.stack(parts).sum(0) * (u - start)).sum(-1)

    def _log_density(self, u: Tensor, x: Tensor, steps: int | None = None) -> Tensor:
        code = self._encode(x)
        return self.ode.log_density(lambda y, angle: self.field.with_divergence(y, angle, code), u, steps)

    def _posterior_sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        if x.shape[1] == 1 and self.config.sampler == "ode":
            return super()._posterior_sample(x, n, generator)
        corrections = self.config.corrections if x.shape[1] > 1 else 0
        angles = angle_nodes(self.config.sigma_min, self.config.levels)[::-1]
        with torch.no_grad():
            field = SetField(self.field, self._encode(x.flatten(0, 1)).unflatten(0, x.shape[:2]), n)
            u = draw_along_noise(field, self._noise(len(x) * n, generator), angles, corrections, generator)
        return self.spec.parameters.from_normal(u.double()).reshape(len(x), n, -1)

    def _sample_normal(self, x: Tensor, generator: torch.Generator) -> Tensor:
        code = self._encode(x)
        return self.ode.transport(lambda y, angle: self.field(y, angle, code), self._noise(len(x), generator))

    def _encode(self, x: Tensor) -> Tensor:
        return self.field.encode(self.standardise_x(x))

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(n, self.spec.theta_dim, generator=generator, dtype=torch.float64, device=generator.device)
        return noise.to(self.nominal)

    def _move_reference_to_nominal(self) -> None:
        """Weights of the reference events times p(x|theta_0) / p(x), up to a constant."""
        if not len(self.reference_x):
            return
        rows = self.reference_x.split(self.rows_per_chunk)
        ratio = torch.cat([self._log_posterior_over_prior(part, self.nominal.expand(len(part), -1)).double() for part in rows])
        weight = self.reference_weight.double() * (ratio - ratio.amax()).exp()
        self.reference_weight = (weight / weight.sum()).to(self.reference_weight)
