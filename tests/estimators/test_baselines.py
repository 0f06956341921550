"""Baselines without training: counting, and kernel densities against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.neighbors import KernelDensity as SklearnKernels
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.kernel_density import KernelDensity, log_kernels
from touchneedle.inference.fit import fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.toys.base import Events, ExactToy, Feature, Parameter, ParameterSpace, ToySpec, Uniform, build_toy

STRENGTH = Parameter("mu", "interest", 1.0, (0.0, 5.0), Uniform(0.0, 5.0))
SPEC = ToySpec("count", "1", ParameterSpace((STRENGTH,)), (Feature("x"),), ("signal", "background"))


def draw(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    events = toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)
    return events.with_weight(0.5 + torch.rand(n, generator=generator))


def yields(theta: Tensor) -> Tensor:
    return torch.stack([40 * theta[:, 0], torch.full_like(theta[:, 0], 100.0)], 1)


def test_a_count_measures_the_strength_of_a_signal() -> None:
    """mu = (N - b) / s with sigma sqrt(N) / s, whatever the events look like."""
    events = Events(torch.randn(170, 1, generator=torch.Generator().manual_seed(0)), torch.ones(170, 1), torch.ones(170))
    result = fit(Likelihood(build_estimator("counting", SPEC).double(), yields), events)
    assert result.valid
    assert abs(result.theta[0] - 70 / 40) < 1e-4
    assert abs(result.sigma[0] / (math.sqrt(170) / 40) - 1) < 1e-3


def test_a_count_measures_nothing_where_rates_are_constant() -> None:
    events = Events(torch.zeros(170, 1), torch.ones(170, 1), torch.ones(170))
    for rates in (None, lambda theta: torch.full((len(theta), 1), 100.0, dtype=torch.float64)):
        result = fit(Likelihood(build_estimator("counting", SPEC).double(), rates), events)
        assert not result.valid


def kernels(toy: ExactToy, events: Events, **params: object) -> KernelDensity:
    estimator = build_estimator("kernel_density", toy.spec, **params)
    assert isinstance(estimator, KernelDensity)
    estimator.double().prepare(events)
    return estimator


@pytest.mark.parametrize("bandwidth", ["likelihood", "scott"])
def test_the_density_is_that_of_scikit_learn(bandwidth: str) -> None:
    """Of (x, theta) over that of theta, in coordinates scaled by the bandwidths."""
    toy = build_toy("mixture_weights")
    assert isinstance(toy, ExactToy)
    events, test = draw(toy, 400, 1), draw(toy, 30, 2)
    estimator = kernels(toy, events, bandwidth=bandwidth)
    in_x, in_theta = estimator.bandwidth.split((2, 3))

    def scaled(sample: Events) -> tuple[Tensor, Tensor]:
        return estimator.standardise_x(sample.x.double()) / in_x, estimator.standardise_theta(sample.theta) / in_theta

    log_p = []
    for columns in (slice(0, 5), slice(2, 5)):
        known, asked = (torch.cat(scaled(sample), 1)[:, columns].numpy() for sample in (events, test))
        log_p.append(SklearnKernels(bandwidth=1.0).fit(known, sample_weight=events.weight.numpy()).score_samples(asked))
    jacobian = -(estimator.standardise_x.std * in_x).log().sum()
    expected = torch.tensor(log_p[0] - log_p[1]) + jacobian
    torch.testing.assert_close(estimator.log_prob(test.x, test.theta), expected, rtol=1e-5, atol=1e-5)
    if bandwidth == "scott":
        torch.testing.assert_close(estimator.bandwidth, torch.full((5,), 400 ** (-1 / 9), dtype=torch.float64))


def left_out_likelihood(estimator: KernelDensity) -> Tensor:
    """Mean conditional log density of each kernel's own event without its kernel, in scaled coordinates."""
    in_x, in_theta = estimator.bandwidth.split((estimator.spec.x_dim, estimator.spec.theta_dim))
    near = log_kernels(estimator.contexts, estimator.contexts, in_theta) + estimator.log_weight
    near = near.fill_diagonal_(-math.inf)
    joint = near + log_kernels(estimator.points, estimator.points, in_x, estimator.widening)
    return estimator.log_weight.exp() @ (joint.logsumexp(1) - near.logsumexp(1))


@pytest.mark.parametrize("adaptive", [False, True])
def test_bandwidths_are_where_left_out_events_are_most_likely(location: ExactToy, adaptive: bool) -> None:
    events = draw(location, 400, 3)
    estimator = kernels(location, events, adaptive=adaptive)
    best, at_best = estimator.bandwidth.clone(), left_out_likelihood(estimator)
    for column in range(3):
        for factor in (0.8, 1.25):
            estimator.bandwidth = best.clone()
            estimator.bandwidth[column] *= factor
            assert left_out_likelihood(estimator) < at_best


def test_a_parameter_without_effect_gets_a_wide_kernel(location: ExactToy) -> None:
    events = draw(location, 2_000, 4)
    noise = torch.randn(len(events), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    idle = Events(events.x, torch.stack([events.theta[:, 0] + 0.3 * events.theta[:, 1], noise], 1), events.weight)
    estimator = kernels(location, idle)
    scott = len(events) ** (-1 / 7)
    assert estimator.bandwidth[2] > 2 * scott > 2 * estimator.bandwidth[1]


def test_the_grid_holds_where_products_underflow(location: ExactToy) -> None:
    """An event far from those of its theta: the largest kernels in x and in theta are not the same."""
    estimator = kernels(location, draw(location, 300, 6), bandwidth="scott")
    estimator.bandwidth = torch.full_like(estimator.bandwidth, 0.02)
    x = torch.tensor([[-3.0], [0.0], [4.0], [60.0]], dtype=torch.float64)
    theta = torch.tensor([[1.2, 2.0], [-1.0, -1.0]], dtype=torch.float64)
    grid = estimator.log_ratio_grid(x, theta)
    expected = torch.stack([estimator.log_ratio(x, point) for point in theta], 1)
    assert bool(torch.isfinite(grid).all())
    torch.testing.assert_close(grid, expected)


@pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")
def test_kernels_explain_most_of_the_ratio(location: ExactToy) -> None:
    estimator, test = kernels(location, draw(location, 2_000, 7)), draw(location, 500, 8)
    exact = location.log_ratio(test.x, test.theta)
    assert (estimator.log_ratio(test.x, test.theta) - exact).square().mean() < 0.3 * exact.square().mean()


def test_negative_weights_are_refused(location: ExactToy) -> None:
    events = draw(location, 100, 9)
    with pytest.raises(SkipCell, match="positive weight"):
        kernels(location, events.with_weight(torch.linspace(-0.1, 1, 100)))
