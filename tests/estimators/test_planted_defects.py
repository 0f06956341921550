"""The conformance kit catches what it is there for: each planted defect fails the named check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from touchneedle.benchmark.check_estimator import check_estimator
from touchneedle.conf import registry
from touchneedle.estimators.base import Capability, Estimator, register_estimator
from touchneedle.estimators.best_gaussian import BestGaussian
from touchneedle.estimators.ratio_bce import RatioBce, RatioBceConfig
from touchneedle.toys.base import Events, EventSource, ExactToy, ToySpec


@dataclass
class SmallConfig(RatioBceConfig):
    """A small network."""

    hidden: tuple[int, ...] = (8,)
    reference_events: int = 100


class Sound(RatioBce):
    """A sound estimator; the defects below subclass it."""

    Config = SmallConfig


class IgnoresWeights(Sound):
    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return super()._loss(events.with_weight(torch.ones_like(events.weight)), generator)


class PreparesWithoutWeights(Sound):
    def _prepare(self, source: EventSource) -> None:
        assert isinstance(source, Events)
        super()._prepare(source.with_weight(torch.ones_like(source.weight)))


class SetsTheGlobalSeed(Sound):
    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        torch.manual_seed(0)
        return super()._loss(events, generator)


class SeedsItsConstructor(Sound):
    def __init__(self, spec: ToySpec, config: SmallConfig) -> None:
        torch.manual_seed(0)
        super().__init__(spec, config)


class DrawsGlobally(Sound):
    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return super()._loss(events, torch.Generator().manual_seed(int(torch.randint(100, ()))))


class DependsOnTheBatch(Sound):
    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        value = super()._log_evidence_ratio(x, theta)
        return value * (1 + 0.1 * x.mean())


class NotZeroAtNominal(Sound):
    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_evidence_ratio(x, theta)


class WrongGrid(Sound):
    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        return super()._log_ratio_grid(x, theta).flip(1)


class DetachesTheta(Sound):
    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return super()._log_ratio(x, theta.detach()) + 0 * theta.sum(-1)


class ForgetsState(Sound):
    scale = 1.0

    def _prepare(self, source: EventSource) -> None:
        super()._prepare(source)
        self.scale = 2.0

    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.scale * super()._log_evidence_ratio(x, theta)


class Explodes(Sound):
    def _log_evidence_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        return super()._log_evidence_ratio(x, theta) + theta[:, 0] * (x[:, 0] ** 2).exp().clamp_max(torch.inf) * 1e-9


class ClaimsTooMuch(Sound):
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob"})


class OffersUndeclared(Sound):
    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_evidence_ratio(x, theta)


class HasADeadParameter(Sound):
    def __init__(self, spec: ToySpec, config: SmallConfig) -> None:
        super().__init__(spec, config)
        self.dead = nn.Parameter(torch.zeros(3))


class SkipsTheShapeCheck(Sound):
    def log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        width = (self.spec.x_dim, self.spec.theta_dim)
        x, theta = x.reshape(-1, width[0]), theta.reshape(-1, width[1])
        n = min(len(x), len(theta)) if len(theta) > 1 else len(x)
        return super().log_ratio(x[:n], theta[:n] if len(theta) > 1 else theta[0])


class NotNormalised(BestGaussian):
    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return super()._log_prob(x, theta) + 0.5 * theta[:, 0] + 0.01


DEFECTS: list[tuple[type[Estimator], set[str]]] = [
    (Sound, set()),
    (IgnoresWeights, {"weights_in_loss"}),
    (PreparesWithoutWeights, {"weights_in_prepare"}),
    (SetsTheGlobalSeed, {"global_state"}),
    (SeedsItsConstructor, {"determinism", "global_state"}),
    (DrawsGlobally, {"global_state"}),
    (DependsOnTheBatch, {"batch_of_one", "batch_invariance"}),
    (NotZeroAtNominal, {"zero_at_nominal"}),
    (WrongGrid, {"grid"}),
    (DetachesTheta, {"gradients"}),
    (ForgetsState, {"save_and_load"}),
    (Explodes, {"far_events"}),
    (ClaimsTooMuch, {"shapes"}),
    (OffersUndeclared, {"missing_capability"}),
    (HasADeadParameter, {"loss"}),
    (SkipsTheShapeCheck, {"wrong_shapes"}),
    (NotNormalised, {"normalised", "ratio_closure"}),
]


@pytest.fixture
def register() -> Iterator[Callable[[type[Estimator]], str]]:
    """Registers a class for one test."""
    names: list[str] = []

    def add(component: type[Estimator]) -> str:
        names.append(f"planted_{component.__name__.lower()}")
        register_estimator(names[-1])(component)
        return names[-1]

    yield add
    for name in names:
        del registry.estimators._registered[name]


@pytest.mark.parametrize(("component", "expected"), DEFECTS, ids=lambda value: getattr(value, "__name__", None))
def test_defect_is_caught(
    component: type[Estimator], expected: set[str], location: ExactToy, register: Callable[[type[Estimator]], str]
) -> None:
    failed = {result.name for result in check_estimator(register(component), location) if not result.passed}
    assert expected <= failed
    assert bool(expected) == bool(failed)


def test_an_estimator_that_holds_the_toy_is_caught(location: ExactToy, register: Callable[[type[Estimator]], str]) -> None:
    class HoldsTheToy(Sound):
        def __init__(self, spec: ToySpec, config: SmallConfig) -> None:
            super().__init__(spec, config)
            self.toy = location

    failed = {result.name for result in check_estimator(register(HoldsTheToy), location) if not result.passed}
    assert failed == {"truth_is_hidden"}
