"""Scans and intervals against closed forms to 1e-6; bounds, rivals, weighted events, bad input."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit, profile_grid, profile_intervals, profile_scan
from touchneedle.toys.base import build_toy


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(name, truth, n, seed=1):
    toy = build_toy(name)
    events = toy.sample(column(*truth).expand(n, -1), generator=torch.Generator().manual_seed(seed))
    return Likelihood(build_estimator("oracle", toy.spec, truth=toy)), events


@pytest.fixture(scope="module")
def linear():
    """A linear model, which has a quadratic profile with the covariance of its fit (checked in `test_fit_result`)."""
    likelihood, events = problem("linear_gaussian", (0.3, -0.2, 0.8, -0.5), 1_000)
    return likelihood, events, fit(likelihood, events, auxiliary=column(0.0, 0.0, 1.2, -0.4))


def test_scan_is_a_parabola_with_the_maximum_on_a_line(linear):
    likelihood, events, best = linear
    scan = profile_scan(likelihood, events, "theta_1", best=best)
    z = (scan.values - best.theta[0]) / best.sigma[0]
    torch.testing.assert_close(scan.t, z.square(), rtol=1e-6, atol=1e-8)
    line = best.theta + z[:, None] * best.covariance[0] / best.sigma[0]
    assert ((scan.theta - line).abs() / best.sigma).max() < 1e-6
    assert (z[0], z[-1]) == (pytest.approx(-3.5), pytest.approx(3.5))
    assert scan.valid.all()


def test_grid_is_the_inverse_of_the_marginal_covariance(linear):
    likelihood, events, best = linear
    first = best.theta[0] + best.sigma[0] * column(-1.5, 0.2, 2.0)
    second = best.theta[2] + best.sigma[2] * column(-1.0, 1.0)
    grid = profile_grid(likelihood, events, ("theta_1", "nu_1"), first, second, best=best)
    inverse = torch.linalg.inv(best.covariance[[0, 2]][:, [0, 2]])
    moves = torch.stack(torch.meshgrid(first - best.theta[0], second - best.theta[2], indexing="ij"), -1)
    torch.testing.assert_close(grid.t, torch.einsum("abi,ij,abj->ab", moves, inverse, moves), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(grid.turned.t, grid.t.T)
    assert grid.theta.shape == (3, 2, 4)


def test_intervals_of_a_parabola(linear):
    likelihood, events, best = linear
    found = profile_intervals(likelihood, events, best, ["theta_2", "nu_1"], (0.6827, 0.95))
    for name, k in (("theta_2", 1), ("nu_1", 2)):
        for level in (0.6827, 0.95):
            interval = found.of(name, level)
            reach = float(best.sigma[k]) * stats.chi2.ppf(level, 1) ** 0.5
            assert interval.low == pytest.approx(float(best.theta[k]) - reach, rel=1e-6)
            assert interval.high == pytest.approx(float(best.theta[k]) + reach, rel=1e-6)
            assert interval.valid
            assert {interval.low_at_bound, interval.high_at_bound, interval.disjoint} == {False}
    assert f"{found.of('theta_2').errors}" in best.with_intervals(found.intervals).summary()
    json.dumps(found.to_dict(), allow_nan=False)


def test_asymmetric_intervals_solve_the_profile_of_the_density():
    """The scale of a Gaussian: 2 Delta ln L = n [2 b l + S e^(-2 b l)] + (l - t)^2 less its minimum, mean profiled out."""
    likelihood, events = problem("gaussian_shift", (0.1, 0.5, -0.5), 60)
    best = fit(likelihood, events)
    interval = profile_intervals(likelihood, events, best, ["log_scale"], 0.95).of("log_scale")
    x, b = events.x[:, 0].double().numpy(), 0.1
    spread = np.mean((x - x.mean()) ** 2)

    def height(scale):
        return 60 * (2 * b * scale + spread * math.exp(-2 * b * scale)) + scale**2

    top = optimize.minimize_scalar(height, bracket=(-2, 2), tol=1e-12)
    wanted = [optimize.brentq(lambda s: height(s) - top.fun - stats.chi2.ppf(0.95, 1), *pair) for pair in ((-10, top.x), (top.x, 10))]
    assert [interval.low, interval.high] == pytest.approx(wanted, rel=1e-6)
    assert abs((interval.high - interval.value) / (interval.value - interval.low) - 1) > 0.02


def test_a_side_that_meets_the_bound_says_so():
    likelihood, events = problem("mass_bump", (0.01, 0.0, 0.0), 300)
    best = fit(likelihood, events)
    found = profile_intervals(likelihood, events, best, level=(0.6827, 0.9973))
    wide = found.of("fraction", 0.9973)
    assert (wide.low, wide.low_at_bound, wide.high_at_bound) == (0.0, True, False)
    assert wide.valid
    assert "(bound)" in found.summary()
    scan = profile_scan(likelihood, events, "fraction", column(wide.high), best=best)
    assert float(scan.t[0]) == pytest.approx(stats.chi2.ppf(0.9973, 1), rel=1e-6)


def test_a_rival_minimum_is_scanned_and_makes_an_interval_doubtful():
    """The amplitude sqrt(mu) has two maxima; a scan is the higher of both hills, and touches the rival at its distance."""
    likelihood, events = problem("amplitude_interference", (1.0, 0.0), 1_000)
    best = fit(likelihood, events, start=column(1.0, 0.0), starts=6)
    (rival,) = best.minima[1:]
    scan = profile_scan(likelihood, events, "mu", torch.cat([rival.theta[:1], best.theta[:1]]), best=best)
    assert float(scan.t[0]) == pytest.approx(rival.distance, abs=1e-6)
    assert float(scan.t[1]) == pytest.approx(0, abs=1e-8)
    narrow, wide = profile_intervals(likelihood, events, best, level=(0.6827, 0.9999)).intervals
    assert rival.distance < stats.chi2.ppf(0.9999, 1)
    assert not narrow.disjoint
    assert wide.disjoint or wide.low <= float(rival.theta[0]) <= wide.high
    default = profile_scan(likelihood, events, "mu", best=best)
    assert default.values.min() <= rival.theta[0] <= default.values.max()


def test_a_scan_that_finds_a_better_fit_says_so():
    likelihood, events = problem("amplitude_interference", (1.0, 0.0), 1_000)
    trapped = fit(likelihood, events, start=column(0.02, 0.0))
    found = fit(likelihood, events, start=column(1.0, 0.0))
    scan = profile_scan(likelihood, events, "mu", found.theta[:1], best=trapped)
    assert scan.above == pytest.approx(2 * (found.value - trapped.value), abs=1e-6)
    assert scan.above > 1
    assert "starts=20" in scan.summary()
    assert (scan.t >= 0).all()


def test_a_single_parameter_leaves_nothing_to_maximise_over(problems, generator):
    toy = problems.SignalStrength()
    events = toy.sample(column(1.0).expand(1_000, 1), generator=generator)
    likelihood = Likelihood(problems.Truth(toy), toy.rates)
    best = fit(likelihood, events)
    values = column(0.8, 1.0, 1.3)
    scan = profile_scan(likelihood, events, "mu", values, best=best)
    direct = [2 * (best.value - float(likelihood.value(value[None], events))) for value in values]
    assert scan.t.tolist() == pytest.approx(direct, rel=1e-9)
    assert scan.valid.all()
    interval = profile_intervals(likelihood, events, best).intervals[0]
    assert 2 * (best.value - float(likelihood.value(column(interval.high), events))) == pytest.approx(stats.chi2.ppf(0.6827, 1), rel=1e-6)
    broken = Likelihood(problems.Truth(toy, factor=math.inf), toy.rates)
    assert not profile_scan(broken, events, "mu", values, best=best).valid.any()


def test_weighted_events_have_no_delta_ln_l(linear):
    likelihood, events, best = linear
    weighted = events.with_weight(2 * events.weight)
    for ask in (
        lambda **said: profile_scan(likelihood, weighted, "theta_1", best.theta[:1], best=best, **said),
        lambda **said: profile_grid(likelihood, weighted, ("theta_1", "theta_2"), best.theta[:1], best.theta[1:2], best=best, **said),
        lambda **said: profile_intervals(likelihood, weighted, best, **said),
    ):
        with pytest.raises(InputError, match="expected unweighted events.*asimov=True"):
            ask()
    asimov = fit(likelihood, weighted, asimov=True)
    found = profile_intervals(likelihood, weighted, asimov, asimov=True).intervals[0]
    assert found.high - found.value == pytest.approx(float(asimov.sigma[0]) * stats.chi2.ppf(0.6827, 1) ** 0.5, rel=1e-6)


def test_bad_input_is_one_line(linear):
    likelihood, events, best = linear
    with pytest.raises(InputError, match="two different parameters"):
        profile_grid(likelihood, events, ("theta_1", "theta_1"), best=best)
    with pytest.raises(InputError, match=r"between 0 and 1; got \[68\]"):
        profile_intervals(likelihood, events, best, level=68)
    with pytest.raises(InputError, match="unknown parameter 'nope'"):
        profile_intervals(likelihood, events, best, ["nope"])
    with pytest.raises(InputError, match=r"theta_1: expected a value in \[-1, 1\]; got 2"):
        profile_scan(likelihood, events, "theta_1", column(2.0), best=best)
