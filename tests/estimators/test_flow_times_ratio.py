"""The hybrid of a flow and a ratio: its density integrates to one, its samples follow it, its ratio is the classifier's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.flow_times_ratio import FlowTimesRatio
from touchneedle.estimators.shared_rows import values_at_rows
from touchneedle.toys.base import Events, ExactToy, build_toy


class Tilt(nn.Module):
    """log r = (standardised x) . (standardised theta), which is not normalised."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.25 * (inputs[:, :1] * inputs[:, 1:].sum(1, keepdim=True))


def draw(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)


def tilted(toy: ExactToy, **params: object) -> FlowTimesRatio:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator("flow_times_ratio", toy.spec, **params)
    assert isinstance(estimator, FlowTimesRatio)
    estimator.network = Tilt()
    estimator.prepare(draw(toy, 500, 1))
    return estimator.double()


def test_the_density_integrates_to_one_and_its_quotient_is_the_normalised_ratio(location: ExactToy) -> None:
    estimator = tilted(location)
    theta = torch.tensor([[0.7, 1.5], [-0.4, 0.0]], dtype=torch.float64)
    grid = torch.linspace(-12, 12, 4_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        for point in theta:
            density = estimator.log_prob(grid, point).exp()
            assert abs(torch.trapezoid(density, grid[:, 0]) - 1) < 1e-3
        nominal = location.spec.parameters.nominal
        quotient = torch.stack([estimator.log_prob(grid, point) - estimator.log_prob(grid, nominal) for point in theta], 1)
        normalised = estimator.log_ratio_grid(grid, theta) - estimator.log_normalisation(theta)
    torch.testing.assert_close(quotient, normalised, rtol=1e-6, atol=1e-6)
    assert estimator.log_normalisation(theta).abs().max() > 0.02


def test_samples_follow_the_density(location: ExactToy) -> None:
    estimator = tilted(location, candidates=64)
    point = torch.tensor([0.7, 1.5], dtype=torch.float64)
    n = 2_000
    x = estimator.sample(point.expand(n, -1), torch.Generator().manual_seed(2))[:, 0]
    grid = torch.linspace(-12, 12, 4_001, dtype=torch.float64)
    with torch.no_grad():
        density = estimator.log_prob(grid[:, None], point).exp()
    for power in (1, 2):
        expected = torch.trapezoid(density * grid**power, grid)
        assert abs((x**power).mean() - expected) < 4.5 * (x**power).std() / n**0.5
    # The flow alone has another mean.
    plain = estimator.flow.sample(point.expand(n, -1), torch.Generator().manual_seed(3))[:, 0]
    assert abs(plain.mean() - x.mean()) > 10 * x.std() / n**0.5


def test_the_score_of_the_density_is_that_of_finite_differences(location: ExactToy) -> None:
    estimator = tilted(location)
    x = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    theta = torch.tensor([[0.7, 1.5], [0.7, 1.5], [0.1, -1.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(estimator.log_prob(x, theta).sum(), theta)
    for column in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[column] = 1e-5
        with torch.no_grad():
            change = estimator.log_prob(x, theta + step) - estimator.log_prob(x, theta - step)
        torch.testing.assert_close(slope[:, column], change / 2e-5, rtol=1e-5, atol=1e-6)


def test_values_at_rows_are_computed_once_for_each_distinct_row() -> None:
    seen = []

    def function(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return (rows**2).sum(1)

    theta = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    value = values_at_rows(function, theta)
    (slope,) = torch.autograd.grad(value.sum(), theta)
    assert seen == [2]
    torch.testing.assert_close(value.detach(), (theta**2).sum(1).detach())
    torch.testing.assert_close(slope, 2 * theta.detach())


def test_negative_weights_are_refused(location: ExactToy) -> None:
    events = draw(location, 100, 4)
    with pytest.raises(SkipCell, match="positive weight"):
        build_estimator("flow_times_ratio", location.spec).prepare(events.with_weight(torch.linspace(-0.1, 1, 100)))


@pytest.mark.slow
def test_training_finds_the_density() -> None:
    """Kullback-Leibler divergence at two points off nominal: the flow alone, of the marginal, is far from either."""
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator("flow_times_ratio", toy.spec)
    assert isinstance(estimator, FlowTimesRatio)
    trainer = TrainerConfig(accelerator="cpu", progress=False, threads=1)
    log = train(estimator, make_events(toy, 10_000, "prior", 0), trainer, OptimizerConfig(), seed=0)
    assert set(log.stages) == {"flow", "ratio"}
    estimator.double()
    for sigmas in (-1.0, 1.0):
        space = toy.spec.parameters
        theta = space.from_normal(space.to_normal(space.nominal) + sigmas).expand(5_000, -1)
        x = toy.sample(theta, generator=torch.Generator().manual_seed(5)).x
        with torch.no_grad():
            exact, hybrid, flow = toy.log_prob(x, theta), estimator.log_prob(x, theta), estimator.flow.log_prob(x, theta)
        loss = [exact - hybrid, exact - flow]
        print(f"{sigmas:+g} sigma: KL hybrid {loss[0].mean():.3f} +- {loss[0].std() / 5_000**0.5:.3f}, flow {loss[1].mean():.3f}")
        assert (hybrid - flow).mean() > 5 * (hybrid - flow).std() / 5_000**0.5
