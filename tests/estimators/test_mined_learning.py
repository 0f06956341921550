"""What mined gold buys on effective field theory: better ratios than a classifier from as many events, and the exact information."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.score_sally import ScoreSally
from touchneedle.toys.base import ExactToy, build_toy

# A few events of a test lie beyond those of the training.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")


def eft() -> ExactToy:
    toy = build_toy("eft_quadratic")
    assert isinstance(toy, ExactToy)
    return toy


def trained(name: str, design: str, n_train: int) -> Estimator:
    """As the product trains it: 20 epochs at most, with the default optimiser."""
    toy = eft()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec)
    train(estimator, make_events(toy, n_train, design, 0), TrainerConfig(accelerator="cpu", progress=False), OptimizerConfig(), seed=0)
    return estimator.double()


@cache
def squared_error(name: str, design: str, n_train: int) -> Tensor:
    """(log_ratio - exact)^2 of test events with theta from the prior, the same for all estimators."""
    toy, generator = eft(), torch.Generator().manual_seed(1)
    test = toy.sample(toy.spec.parameters.sample_prior(20_000, generator), generator=generator)
    with torch.no_grad():
        learned = trained(name, design, n_train).log_ratio(test.x, test.theta)
    return (learned - toy.log_ratio(test.x, test.theta)).square()


@pytest.mark.slow
@pytest.mark.parametrize("n_train", [2_000, 10_000])
@pytest.mark.parametrize("name", ["mined_alice", "mined_alices", "mined_rascal"])
def test_mined_gold_beats_a_classifier_at_equal_events_and_epochs(name: str, n_train: int) -> None:
    gain = squared_error("ratio_bce", "prior", n_train) - squared_error(name, "pairs", n_train)
    assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5


@pytest.mark.slow
def test_the_joint_score_sharpens_a_flow_at_equal_events_and_epochs() -> None:
    gain = squared_error("zuko_nsf", "prior", 2_000) - squared_error("mined_scandal", "pairs", 2_000)
    assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5


@pytest.mark.slow
def test_sally_keeps_the_information_of_the_exact_score() -> None:
    """E[t s] Cov[t]^-1 E[s t] with the exact score s is what a fit of the mean of t measures at nominal."""
    toy, generator = eft(), torch.Generator().manual_seed(2)
    nominal = toy.spec.parameters.nominal
    x = toy.sample(nominal.repeat(100_000, 1), generator=generator).x
    estimator = trained("score_sally", "nominal", 50_000)
    assert isinstance(estimator, ScoreSally)
    # At nominal the energy scale is a combination of the coefficients, and the amplitude has no effect.
    exact = toy.score(x, nominal)[:, :2]
    with torch.no_grad():
        observables = estimator.observables(x.double())
    assert (observables[:, 3] == 0).all()
    learned = observables[:, :2] - observables[:, :2].mean(0)
    cross, fisher = learned.T @ exact / len(x), exact.T @ exact / len(x)
    kept = cross.T @ torch.linalg.solve(learned.T @ learned / len(x), cross)
    shares = torch.linalg.eigvals(torch.linalg.solve(fisher, kept)).real
    assert (shares <= 1 + 1e-9).all()
    assert (shares > 0.95).all()
