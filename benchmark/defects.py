"""Planted defects: estimators with one thing wrong and everything else exact, to see which score notices.

Each is the exact density of a toy, spoiled in one way. Density, ratio and samples agree with each other wherever
the defect allows it: what is wrong is the model, not the bookkeeping. None is registered; they are for
`touchneedle.benchmark.audit` and for tests.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from touchneedle.estimators.base import Capability
from touchneedle.estimators.best_gaussian import BestGaussian
from touchneedle.estimators.control import TruthControl
from touchneedle.toys.base import Events, EventSource, ExactToy, collect

# log p of an event that a learned density has never seen anything like.
NOTHING = -30.0


@dataclass
class NoOptions:
    """No options."""


class Density(TruthControl):
    """Abstract. A wrong density: ratio from density, as flows do; write ``_log_prob`` and ``_sample``."""

    Config = NoOptions
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_prob(x, theta) - self._log_prob(x, self.nominal.expand_as(theta))


class ElsewhereInTheta(Density):
    """Abstract. The exact density at a wrong point; write ``_elsewhere``."""

    @abstractmethod
    def _elsewhere(self, theta: Tensor) -> Tensor: ...

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_toy.log_prob(x, self._elsewhere(theta))

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.exact_toy.sample(self._elsewhere(theta), generator=generator).x

    def _replace(self, theta: Tensor, column: int, value: Tensor) -> Tensor:
        return torch.cat([theta[:, :column], value[:, None], theta[:, column + 1 :]], 1)


class SignFlipped(ElsewhereInTheta):
    """The first nuisance acts the wrong way round."""

    def _elsewhere(self, theta: Tensor) -> Tensor:
        column = self.spec.parameters.nuisance[0]
        return self._replace(theta, column, 2 * self.nominal[column] - theta[:, column])


class NuisanceIgnored(ElsewhereInTheta):
    """The last nuisance does nothing."""

    def _elsewhere(self, theta: Tensor) -> Tensor:
        column = self.spec.parameters.nuisance[-1]
        return self._replace(theta, column, 0 * theta[:, column] + self.nominal[column])


class LabelsPermuted(ElsewhereInTheta):
    """A harness fault: the columns of the first two nuisances were swapped in the training events."""

    def _elsewhere(self, theta: Tensor) -> Tensor:
        first, second = self.spec.parameters.nuisance[:2]
        order = list(range(theta.shape[1]))
        order[first], order[second] = second, first
        return theta[:, order]


class ThetaIndependent(ElsewhereInTheta):
    """The nominal density at every theta."""

    def _elsewhere(self, theta: Tensor) -> Tensor:
        return 0 * theta + self.nominal


class ConstantFactor(Density):
    """The density is 5 % too large everywhere: ratios are exact."""

    factor = 1.05

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.exact_toy.log_prob(x, theta) + math.log(self.factor)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self.exact_toy.sample(theta, generator=generator).x


class NormalisedAtNominal(ConstantFactor):
    """The integral of the density grows by 2 % per unit of the first nuisance, and is 1 at nominal only."""

    drift = 0.02

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        column = self.spec.parameters.nuisance[0]
        return self.exact_toy.log_prob(x, theta) + self.drift * (theta[:, column] - self.nominal[column])


class InteractionDropped(Density):
    """Each nuisance acts as it does alone: log r(mu, nu) = log r(mu) + sum_k [log r(mu, nu_k) - log r(mu)]."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "score"})

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        nuisances = list(self.spec.parameters.nuisance)
        alone = self._with_nuisances(theta, [])
        bare = self.exact_toy.log_prob(x, alone)
        return bare + sum((self.exact_toy.log_prob(x, self._with_nuisances(theta, [k])) - bare for k in nuisances), torch.zeros_like(bare))

    def _with_nuisances(self, theta: Tensor, kept: list[int]) -> Tensor:
        columns = [
            theta[:, k] if k in kept or k in self.spec.parameters.interest else 0 * theta[:, k] + self.nominal[k]
            for k in range(theta.shape[1])
        ]
        return torch.stack(columns, 1)


class Inverted(TruthControl):
    """The ratio is upside down: p(x|theta_0) / p(x|theta)."""

    Config = NoOptions
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"score"})

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return -self.exact_log_ratio(x, theta, self.nominal)


class ModeDropped(Density):
    """The first process is missing, the others share its place: q = sum_{k > 1} f_k p_k / sum_{k > 1} f_k."""

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        fractions = self.exact_toy.rates(theta)[:, 1:]
        parts = self.exact_toy.log_prob_process(x, theta)[:, 1:] + (fractions / fractions.sum(1, keepdim=True)).log()
        return parts.logsumexp(1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        return _redraw(self.exact_toy, theta, generator, lambda events: _labels(events) > 0)


class TailTruncated(Density):
    """Nothing beyond the 95 % quantile of the first feature at nominal; not normalised again, as clipped tails are not."""

    share = 0.95

    def _edge(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        nominal = self.spec.parameters.nominal.expand(20_000, -1)
        return self.exact_toy.sample(nominal, generator=generator).x[:, 0].double().quantile(self.share)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        exact = self.exact_toy.log_prob(x, theta)
        return torch.where(x[:, 0] <= self._edge(), exact, NOTHING + 0 * exact)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        edge = self._edge()
        return _redraw(self.exact_toy, theta, generator, lambda events: events.x[:, 0] <= edge)


class Leak(Density):
    """5 % of the density lies beyond the upper edge of the first feature, flat over a tenth of its range."""

    share = 0.05

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        low, high = self._support()
        outside = (x[:, 0] > high) & (x[:, 0] <= high + 0.1 * (high - low))
        leaked = math.log(self.share / (0.1 * (high - low))) + 0 * theta.sum(-1)
        return torch.where(outside, leaked, math.log(1 - self.share) + self.exact_toy.log_prob(x, theta))

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        x = self.exact_toy.sample(theta, generator=generator).x
        low, high = self._support()
        u = torch.rand(len(x), 2, generator=generator, dtype=torch.float64)
        beyond = (high + 0.1 * (high - low) * u[:, 1]).to(x)
        return torch.cat([torch.where(u[:, 0] < self.share, beyond, x[:, 0])[:, None], x[:, 1:]], 1)

    def _support(self) -> tuple[float, float]:
        support = self.spec.features[0].support
        if support is None:
            raise ValueError(f"{self.spec.name}: feature {self.spec.features[0].name} has no support to leak from")
        return support


class PriorAsPosterior(TruthControl):
    """The posterior is the prior, whatever the event: it covers, and knows nothing."""

    Config = NoOptions
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"posterior_log_prob", "posterior_sample", "score"})

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return 0 * theta.sum(-1)

    def _posterior_log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        return self.spec.parameters.log_prior(theta)

    def _posterior_sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return self.spec.parameters.sample_prior(n * len(x), generator).reshape(len(x), n, -1)


class WeightsIgnored(BestGaussian):
    """Trained as if all events had weight one."""

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        super()._prepare(events.with_weight(torch.ones_like(events.weight)))


def _labels(events: Events) -> Tensor:
    if events.label is None:
        raise ValueError("expected events with process labels")
    return events.label


def _redraw(toy: ExactToy, theta: Tensor, generator: torch.Generator, keep: Callable[[Events], Tensor]) -> Tensor:
    """One event per row of theta with ``keep`` true, by drawing the others again."""
    events = toy.sample(theta, generator=generator)
    x = events.x.clone()
    left = (~keep(events)).nonzero().flatten()
    while len(left):
        again = toy.sample(theta[left], generator=generator)
        good = keep(again)
        x[left[good]] = again.x[good]
        left = left[~good]
    return x
