"""Neyman intervals against closed forms: Gaussian means, and the table of Feldman and Cousins near a bound."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, Simulation, calibrated_thresholds, fit, neyman
from touchneedle.inference.calibrated import LEVELS
from touchneedle.inference.neyman import accepted
from touchneedle.toys.base import build_toy

N = 400
Z = [1.0, norm.ppf(0.975)]


def observed(toy, theta, generator, n=N):
    return toy.sample(torch.tensor(theta, dtype=torch.float64).expand(n, -1), generator=generator)


def test_bounds_of_a_linear_gaussian_are_analytic(generator):
    toy = build_toy("linear_gaussian", interest=1, nuisances=1, dim=2)
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy).double())
    events = observed(toy, [0.1, 0.5], generator)
    best = fit(likelihood, events)
    seen = []
    simulation = Simulation(toy.sample, n_pseudo=1_000, n_events=N)
    result = neyman(likelihood, events, "theta_1", simulation, best=best, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (13, 13)
    assert int(result.thresholds.failed.sum()) == 0
    # ln L is a parabola and t is chi2 exactly.
    for interval, z in zip(result.intervals, Z, strict=True):
        for bound, sign in ((interval.low, -1), (interval.high, 1)):
            expected = float(best.theta[0] + sign * z * best.sigma[0])
            assert bound.crossed
            assert abs(bound.value - expected) < 4 * bound.error
            assert bound.error < 0.1 * float(best.sigma[0])


def test_model_events_and_simulated_events_give_the_same_thresholds(generator):
    toy = build_toy("gaussian_shift")
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy).double())
    reference = observed(toy, [0.0, 0.0, 0.0], generator, 40_000)
    points = torch.tensor([[0.05, 0.5, -0.5]], dtype=torch.float64)
    for source in (toy.sample, reference):
        found = calibrated_thresholds(likelihood, "shift", points, Simulation(source, n_events=N))
        assert ((found.threshold - found.asymptotic) / found.error).abs().max() < 4
        assert found.error.max() < 0.5


def critical(mu, level):
    """Threshold of t for a unit Gaussian with mean mu >= 0: t = (x - mu)^2, less x^2 where x < 0."""

    def excess(cut):
        root = math.sqrt(cut)
        low = mu - root if root <= mu else (mu**2 - cut) / (2 * mu)
        return norm.cdf(root) - norm.cdf(low - mu) - level

    return brentq(excess, 1e-9, 50.0)


def feldman_cousins(x, level):
    """Bounds of the mean of a unit Gaussian, measured at x (arXiv:physics/9711021, table X)."""

    def height(mu):
        return (x - mu) ** 2 - min(x, 0.0) ** 2 - critical(mu, level)

    low = 0.0 if x < 0 or height(1e-6) < 0 else brentq(height, 1e-6, x)
    return low, brentq(height, max(x, 1e-3), 10.0)


def test_quadrature_is_the_published_table():
    assert feldman_cousins(0.0, 0.9)[1] == pytest.approx(1.64, abs=0.006)
    assert feldman_cousins(-1.0, 0.9)[1] == pytest.approx(0.81, abs=0.006)
    assert feldman_cousins(3.0, 0.9) == pytest.approx((1.37, 4.64), abs=0.006)
    assert feldman_cousins(-3.0, 0.95)[1] == pytest.approx(0.42, abs=0.006)


def test_near_a_bound_intervals_are_those_of_feldman_and_cousins(problems, generator):
    toy = problems.LinearGaussian(bounds=(0.0, math.inf))
    likelihood = Likelihood(problems.Truth(toy))
    _, covariance = toy.closed_form(torch.zeros(1, 2), torch.tensor([float(N)]).double(), torch.zeros(1))
    sigma = float(covariance[0, 0, 0].sqrt())
    events = measured_at(0.4 * sigma, toy, generator)
    # The corner needs steps of a quarter of sigma.
    values = sigma * torch.cat([torch.arange(0.0, 1.25, 0.25), torch.arange(1.5, 5.25, 0.5)]).double()
    result = neyman(likelihood, events, "mu", Simulation(toy.sample, n_pseudo=800, n_events=N), values)
    check_bounds(result.intervals, 0.4, sigma)
    for row, column in ((1, 0), (1, 1), (4, 0), (4, 1), (12, 1)):
        difference = result.thresholds.threshold[row, column] - critical(float(values[row]) / sigma, LEVELS[column])
        assert abs(difference) < 4 * result.thresholds.error[row, column]
    # ln L is a parabola, so that t of other measurements is known.
    for x in (-0.6, 2.5):
        t = (x - values / sigma) ** 2 - min(x, 0.0) ** 2
        check_bounds([accepted(result.thresholds, t, column)[0] for column in range(2)], x, sigma)


def measured_at(mu, toy, generator):
    """Events moved such that the unbounded fit is at mu, and at a vanishing nuisance."""
    events = observed(toy, [0.0, 0.0], generator)
    shift = toy.response @ torch.tensor([mu, 0.0], dtype=torch.float64) - events.x.mean(0)
    return replace(events, x=events.x + shift)


def check_bounds(intervals, x, sigma):
    for interval, level in zip(intervals, LEVELS, strict=True):
        low, high = feldman_cousins(x, level)
        assert abs(interval.high.value / sigma - high) < 4 * interval.high.error / sigma + 0.01
        assert interval.high.error < 0.2 * sigma
        assert interval.low.crossed == (low > 0)
        assert abs(interval.low.value / sigma - low) < 4 * interval.low.error / sigma + 0.01


def test_bad_input_is_one_line(problems, generator):
    toy = problems.LinearGaussian()
    likelihood, events = Likelihood(problems.Truth(toy)), observed(toy, [0.0, 0.0], generator, 50)
    simulation = Simulation(toy.sample, n_pseudo=10)
    with pytest.raises(InputError, match="nu: expected a parameter of interest"):
        neyman(likelihood, events, "nu", simulation)
    with pytest.raises(InputError, match="unit weight"):
        neyman(likelihood, events.with_weight(0.5 * events.weight), "mu", simulation)
    with pytest.raises(InputError, match="rising values"):
        neyman(likelihood, events, "mu", simulation, torch.tensor([0.1, 0.0]))
    with pytest.raises(InputError, match="n_events"):
        neyman(likelihood, events, "mu", simulation, torch.tensor([0.0, 0.1]))
