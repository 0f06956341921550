"""Pseudo-experiments of a likelihood: pools without their own fluctuation, control regions, reproducibility."""

from dataclasses import replace

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import ControlRegions, Likelihood, Simulation, asimov_from_simulator, neyman
from touchneedle.inference.calibrated import quantile_with_error
from touchneedle.inference.pools import effective_size, model_pool, simulated_pool
from touchneedle.toys.base import Events, Feature, Normal, Parameter, ParameterSpace, ToySpec

THETA = torch.tensor([0.3, 0.5], dtype=torch.float64)
TAU = 3.0


def weighted_mean(events):
    return (events.weight.double() @ events.x.double()) / events.weight.double().sum()


def test_a_pool_has_the_mean_score_of_a_larger_sample(problems, generator):
    toy = problems.LinearGaussian()
    pool = simulated_pool(problems.Truth(toy), toy.sample, THETA, 500, 20_000, generator.clone_state())
    larger = toy.sample(THETA.expand(20_000, -1), generator=generator)
    assert torch.equal(pool.events.x, larger.x[:500])
    # The score is linear in x: both means agree, at a small loss of effective size.
    assert torch.allclose(weighted_mean(pool.events), weighted_mean(larger), atol=1e-5)
    assert effective_size(pool.events.weight) > 480
    assert pool.error(200) == pytest.approx(0.1)


def test_a_pool_of_the_model_has_no_score(problems, generator):
    toy = problems.LinearGaussian()
    reference = toy.sample(torch.zeros(2_000, 2, dtype=torch.float64), generator=generator)
    pool = model_pool(problems.Truth(toy), reference, THETA)
    assert torch.allclose(weighted_mean(pool.events), toy.response @ THETA, atol=1e-5)
    assert pool.error(200) == 0
    # A ratio that is not normalised has a mean score that nobody knows.
    plain = model_pool(problems.Drifting(toy), reference, THETA)
    assert plain.error(200) == pytest.approx((200 / effective_size(plain.events.weight)) ** 0.5)
    with pytest.raises(InputError, match="finite log_ratio"):
        model_pool(problems.Truth(toy, factor=float("inf")), reference, THETA)


def test_the_seed_makes_the_pseudo_experiments(problems):
    toy = problems.LinearGaussian()
    likelihood = Likelihood(problems.Truth(toy))
    first, same, other = (Simulation(toy.sample, 50, n_events=100, seed=seed).fit(likelihood, THETA).fits.theta for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    with pytest.raises(InputError, match="n_events"):
        Simulation(toy.sample).fit(likelihood, THETA)


def on_off():
    """Counts n_on ~ Poisson(s + b) and n_off ~ Poisson(3 b); no shape."""
    signal = Parameter("signal", "interest", 50.0, (-100.0, 400.0), Normal(50.0, 50.0))
    background = Parameter("background", "nuisance", 60.0, (1.0, 400.0), Normal(60.0, 30.0))
    spec = ToySpec("on_off", "1", ParameterSpace((signal, background)), (Feature("x"),), ("signal", "background"))
    control = ControlRegions(("off",), lambda theta: TAU * theta[:, 1:2], torch.tensor([180.0], dtype=torch.float64))
    return Likelihood(build_estimator("counting", spec).double(), lambda theta: theta, control=control)


def no_shape(theta, *, generator):
    return Events(torch.zeros(len(theta), 1), theta, torch.ones(len(theta), dtype=torch.float64))


def test_control_regions_are_redrawn_and_fitted():
    likelihood, theta = on_off(), torch.tensor([50.0, 60.0], dtype=torch.float64)
    done = Simulation(no_shape, n_pseudo=400).fit(likelihood, theta)
    on, off = done.experiments.counts.double(), done.experiments.control_counts[:, 0]
    assert abs(off.mean() - 180) < 4 * (180 / 400) ** 0.5
    assert abs(off.var() / 180 - 1) < 4 * (2 / 400) ** 0.5
    # Li and Ma 1983: s = n_on - n_off / tau, b = n_off / tau.
    expected = torch.stack([on - off / TAU, off / TAU], -1)
    assert ((done.fits.theta - expected) / done.fits.sigma).abs().max() < 0.01
    sigma = (on + off / TAU**2).sqrt()
    assert (done.fits.sigma[:, 0] / sigma - 1).abs().max() < 0.01


def test_neyman_of_an_on_off_experiment_is_nearly_gaussian():
    likelihood = on_off()
    events = no_shape(torch.zeros(110, 2), generator=torch.Generator())
    values = torch.tensor([20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0])
    result = neyman(likelihood, events, "signal", Simulation(no_shape, n_pseudo=600), values)
    sigma = (110 + 180 / TAU**2) ** 0.5
    low, high = result.intervals[0].low, result.intervals[0].high
    assert abs(low.value - (50 - sigma)) < 4 * low.error + 0.05 * sigma
    assert abs(high.value - (50 + sigma)) < 4 * high.error + 0.05 * sigma


def test_asimov_control_regions_are_at_their_expectation():
    likelihood, theta = on_off(), torch.tensor([20.0, 70.0], dtype=torch.float64)
    asimov = asimov_from_simulator(likelihood, no_shape(torch.zeros(10, 2), generator=torch.Generator()), theta)
    assert asimov.expected_events == 90
    assert asimov.likelihood(likelihood).control.observed.tolist() == [210.0]
    assert asimov.likelihood(replace(likelihood, control=None)).control is None


def test_fits_that_leave_the_local_normalisation_count_as_failed(problems):
    toy = problems.LinearGaussian()
    done = Simulation(toy.sample, 50, n_events=100).fit(Likelihood(problems.Drifting(toy)), THETA)
    assert done.failed == 0
    theta = done.fits.theta.clone()
    theta[0] = theta[0] + 30 * done.fits.sigma[0]
    assert replace(done, fits=replace(done.fits, theta=theta)).failed == 1


def test_fits_left_out_widen_the_error_of_a_quantile():
    sample = torch.linspace(0, 1, 1_001, dtype=torch.float64)
    full, error = quantile_with_error(sample, 0.5)
    sample[::10] = torch.nan
    partial, wider = quantile_with_error(sample, 0.5)
    assert abs(partial - full) < wider
    assert wider > 2 * error
