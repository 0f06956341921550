"""Trained on signed events, the signed methods find a ratio below zero, which an ordinary classifier cannot."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.config import EvaluationConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.density import density_scores
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import SignedToy, build_toy

pytestmark = pytest.mark.slow

SIGNED = ["ratio_signed_mixture", "ratio_signed_pare", "ratio_signed_revert"]
# Both classes have events within two nominal widths.
RADIUS = 5.0
CLEARLY_NEGATIVE = -0.2


def signed_toy() -> SignedToy:
    toy = build_toy("signed_mixture")
    assert isinstance(toy, SignedToy)
    return toy


@cache
def trained(name: str) -> Estimator:
    toy = signed_toy()
    estimator = untrained(name)
    trainer = TrainerConfig(batch_size=1024, accelerator="cpu", progress=False)
    train(estimator, make_events(toy, 100_000, "prior", 0), trainer, OptimizerConfig(), seed=0)
    return estimator.double()


def untrained(name: str) -> Estimator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_estimator(name, signed_toy().spec, hidden=(64, 64))


def learned_and_exact(name: str) -> tuple[Tensor, Tensor]:
    """Ratios (n,) of events within `RADIUS`, theta from the prior."""
    toy, generator = signed_toy(), torch.Generator().manual_seed(5)
    events = toy.sample(toy.spec.parameters.sample_prior(20_000, generator), generator=generator)
    events = events[events.x.norm(dim=1) < RADIUS]
    exact = toy.density(events.x, events.theta) / toy.density(events.x, toy.spec.parameters.nominal)
    return trained(name).ratio(events.x, events.theta).detach(), exact


def unexplained(learned: Tensor, exact: Tensor) -> float:
    """Mean squared error in units of the variance of the exact ratio."""
    return float((learned - exact).square().mean() / exact.var())


@pytest.mark.parametrize("name", SIGNED)
def test_sign_and_value_of_the_ratio_are_recovered(name: str) -> None:
    learned, exact = learned_and_exact(name)
    negative = exact < CLEARLY_NEGATIVE
    assert unexplained(learned, exact) < 0.25
    assert (learned[negative] < 0).double().mean() > 0.9
    assert (learned[exact > 0] < 0).double().mean() < 0.05


def test_an_ordinary_classifier_recovers_neither() -> None:
    learned, exact = learned_and_exact("ratio_bce")
    assert (learned > 0).all()
    assert unexplained(learned, exact) > 0.8


def distances(estimator: Estimator) -> list[float]:
    """z of the signed sliced Wasserstein distance against its null, at three points; the last has a negative density."""
    config = EvaluationConfig(n_points=3, n_test=2_000, n_sample=5_000)
    rows = density_scores(EvaluationContext(signed_toy(), estimator, config, 0)).metrics
    values = [row.at["z"] for row in rows if row.name == "signed_sliced_w1" and row.at["slices"] == "random"]
    return [z for z in values if isinstance(z, float)]


@pytest.mark.parametrize("name", SIGNED)
def test_weighted_nominal_events_follow_the_signed_density(name: str) -> None:
    """z of the truth follows t_9, beyond 4 once in 300; an untrained ratio lies beyond."""
    z = distances(trained(name))
    assert len(z) == 3
    assert max(z) < 4
    assert distances(untrained(name).double())[-1] > 4
