"""The trained estimators learn a Gaussian location model whose log ratio is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.data import design_theta
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, ExactToy

# A few events of a test lie beyond those of the training.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")

RATIOS = ["ratio_balanced", "ratio_bce", "ratio_nre_c", "ratio_parametric", "ratio_regression"]
TRAINED = [
    "diffusion_likelihood", "flow_matching", "posterior_flow", "posterior_flow_matching", "posterior_score", *RATIOS, "zuko_nsf",
]  # fmt: skip


def draw(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)


def trained(name: str, toy: ExactToy, events: Events, steps: int, learning_rate: float) -> Estimator:
    """A plain loop with a cosine schedule."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec)
    estimator.prepare(events)
    optimiser = torch.optim.Adam(estimator.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        index = torch.randint(len(events), (256,), generator=generator)
        optimiser.zero_grad()
        estimator.loss(events[index], generator).mean().backward()
        optimiser.step()
        schedule.step()
    return estimator.double()


def unexplained(estimator: Estimator, toy: ExactToy) -> Tensor:
    """Mean squared error of log_ratio in units of the mean square of the exact one."""
    test = draw(toy, 5_000, 2)
    exact = toy.log_ratio(test.x, test.theta)
    return (estimator.log_ratio(test.x, test.theta).detach() - exact).square().mean() / exact.square().mean()


@pytest.mark.parametrize("name", TRAINED)
def test_a_short_training_explains_most_of_the_ratio(name: str, location: ExactToy) -> None:
    # The penalty of ratio_balanced is noisy in a batch: it needs twice the steps.
    steps = 200 if name == "ratio_balanced" else 100
    estimator = trained(name, location, draw(location, 4_000, 3), steps, learning_rate=3e-3)
    assert unexplained(estimator, location) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_long_training_finds_the_ratio(name: str, location: ExactToy) -> None:
    estimator = trained(name, location, draw(location, 100_000, 3), steps=3_000, learning_rate=1e-3)
    assert unexplained(estimator, location) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_weighted_events_teach_the_weighted_density(name: str, location: ExactToy) -> None:
    """Events of x ~ N(centre, 2^2) weighted to N(centre, 1): only a method that uses the weights sees width 1."""
    events = draw(location, 100_000, 4)
    noise = 2 * torch.randn(len(events), generator=torch.Generator().manual_seed(5))
    centre = (events.theta[:, 0] + 0.3 * events.theta[:, 1]).float()
    wide = Events((centre + noise)[:, None], events.theta, torch.exp(-0.5 * noise**2 + 0.5 * (noise / 2) ** 2))
    estimator = trained(name, location, wide, steps=3_000, learning_rate=1e-3)
    assert unexplained(estimator, location) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ratio_morphed", "ratio_parametric"])
def test_a_long_training_on_templates_finds_the_ratio(name: str, location: ExactToy) -> None:
    """Between the anchors and beyond them, where nothing was simulated."""
    generator = torch.Generator().manual_seed(3)
    events = location.sample(design_theta(location.spec.parameters, 100_000, "templates", generator), generator=generator)
    estimator = trained(name, location, events, steps=3_000, learning_rate=1e-3)
    assert unexplained(estimator, location) < 0.02
