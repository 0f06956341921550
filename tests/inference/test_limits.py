"""CLs limits against closed forms: a counting experiment, Gaussian asymptotics, and each other."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm, poisson

from touchneedle.conf.errors import InputError
from touchneedle.inference import Likelihood, Simulation, upper_limit
from touchneedle.inference.limits import asymptotic_cls, excluded_from
from touchneedle.toys.base import Normal, ParameterSpace

SIGNAL, BACKGROUND = 4.0, 3.0


def few_events(problems):
    """A counting experiment: no shape, 4 mu + 3 expected events."""
    toy = problems.SignalStrength()
    # A flat prior would end the fits of a learned answer inside its ends.
    mu = replace(toy.spec.parameters.parameters[0], prior=Normal(1.0, 1.0))
    toy.spec = replace(toy.spec, parameters=ParameterSpace((mu,)))
    estimator = problems.Truth(toy, factor=0.0)
    return toy, Likelihood(estimator, lambda theta: torch.stack([SIGNAL * theta[:, 0], BACKGROUND + 0 * theta[:, 0]], -1))


@pytest.mark.parametrize("n", [0, 5])
def test_a_counting_experiment_is_poisson(problems, generator, n):
    toy, likelihood = few_events(problems)
    events = toy.sample(torch.ones(n, 1, dtype=torch.float64), generator=generator)
    values = torch.tensor([0.6, 0.75, 1.0, 1.5, 2.0, 2.5])
    result = upper_limit(likelihood, events, "mu", Simulation(toy.sample, n_pseudo=4_000), values)
    exact = torch.tensor(poisson.cdf(n, SIGNAL * values + BACKGROUND) / poisson.cdf(n, BACKGROUND))
    assert int(result.failed.sum()) == 0
    assert ((result.cls - exact) / result.error).abs().max() < 4
    assert result.error.max() < 0.2
    limit = excluded_from(values.double(), exact, torch.zeros(len(values)), 0.05)
    assert abs(result.limit.value - limit.value) < 4 * result.limit.error
    # The median experiment without signal counts 3.
    median = torch.tensor(poisson.cdf(3, SIGNAL * values + BACKGROUND) / poisson.cdf(3, BACKGROUND))
    assert ((result.expected[:, 2] - median) / result.expected_error[:, 2]).abs().max() < 5


def test_asymptotic_formulas_are_those_of_a_gaussian():
    mu, sigma = torch.tensor([0.5, 1.0, 2.0]), 0.7
    for x in (-1.0, 0.3, 0.5):
        q = (mu**2 - 2 * mu * x if x < 0 else (mu - x).clamp_min(0) ** 2) / sigma**2
        expected = torch.tensor(norm.sf((mu - x) / sigma) / norm.sf(-x / sigma))
        assert torch.allclose(asymptotic_cls(q, mu**2 / sigma**2), expected.double(), rtol=1e-5)


def test_a_gaussian_mean_above_zero_is_known(problems, generator):
    toy, n = problems.LinearGaussian(bounds=(0.0, math.inf)), 400
    likelihood = Likelihood(problems.Truth(toy))
    _, covariance = toy.closed_form(torch.zeros(1, 2), torch.tensor([float(n)]).double(), torch.zeros(1))
    sigma = float(covariance[0, 0, 0].sqrt())
    events = toy.sample(torch.zeros(n, 2, dtype=torch.float64), generator=generator)
    wanted = toy.response @ torch.tensor([0.5 * sigma, 0.0], dtype=torch.float64)
    events = replace(events, x=events.x + wanted - events.x.mean(0))
    values, seen = torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]) * sigma, []
    simulation = Simulation(toy.sample, n_pseudo=2_000, n_events=n)
    result = upper_limit(likelihood, events, "mu", simulation, values, progress=lambda *count: seen.append(count))
    assert seen[-1] == (5, 5)
    exact = torch.tensor(norm.sf(values / sigma - 0.5) / norm.sf(-0.5))
    assert ((result.cls - exact) / result.error).abs().max() < 4
    assert ((result.asymptotic - exact).abs() < 4 * result.asymptotic_error + 1e-3).all()
    assert result.error[2] < 0.02
    # CLs is 0.05 where the sum of both tails is.
    limit = sigma * (0.5 + norm.isf(0.05 * norm.cdf(0.5)))
    for found in (result.limit, result.asymptotic_limit):
        assert abs(found.value - limit) < 4 * found.error + 0.01 * sigma
    # Without signal and at k sigma, the limit is k + isf(0.05 cdf(k)).
    for k, found in zip((0, 1), result.expected_limits[2:4], strict=True):
        assert abs(found.value / sigma - (k + norm.isf(0.05 * norm.cdf(k)))) < 4 * found.error / sigma + 0.05
    assert "CLs" in str(result)


def test_bad_input_is_one_line(problems, generator):
    toy, likelihood = few_events(problems)
    events = toy.sample(torch.ones(3, 1, dtype=torch.float64), generator=generator)
    with pytest.raises(InputError, match="rising values above 0"):
        upper_limit(likelihood, events, "mu", Simulation(toy.sample), torch.tensor([0.0, 1.0]))
    with pytest.raises(InputError, match="unit weight"):
        upper_limit(likelihood, events.with_weight(2 * events.weight), "mu", Simulation(toy.sample), torch.tensor([0.5, 1.0]))
