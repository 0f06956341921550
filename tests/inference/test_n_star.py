"""n* and the mean score against closed forms."""

import math

import pytest
import torch

from touchneedle.inference.mean_score import covariance_at, first_order_bias
from touchneedle.inference.n_star import BiasCurve, NStar, bias_curve, n_star, n_star_by_scaling, reconcile
from touchneedle.inference.pseudo_fits import fit_pseudo_experiments


def closed_form_sigma(toy, n):
    covariance = toy.closed_form(torch.zeros(1, 2), torch.tensor([float(n)], dtype=torch.float64), torch.zeros(1))[1]
    return float(covariance[0, 0, 0].sqrt())


@pytest.fixture
def pairs(problems, draw):
    def make(estimator, reference=True):
        toy = estimator.toy
        found = []
        for n in (100, 1_000):
            experiments = draw(toy, [0.3, 0.5], n, 4, n_pool=20_000)
            own = fit_pseudo_experiments(estimator, experiments).surface
            found.append((own, fit_pseudo_experiments(problems.Truth(toy), experiments).surface if reference else None))
        # Tables of one pool: the second draw replaces the first, so keep the last pair only.
        return found[-1:]

    return make


def test_planted_shift_has_the_closed_form_n_star(problems, pairs, generator):
    toy = problems.LinearGaussian()
    curve = bias_curve(pairs(problems.Truth(toy, shift=[0.02, 0.0])), replicas=20, generator=generator)
    result = n_star(curve, 0)
    assert result.censored is None
    assert 0.02 / closed_form_sigma(toy, result.value) == pytest.approx(0.2, rel=2e-3)
    assert 0.02 / closed_form_sigma(toy, 1_000) == pytest.approx(-float(curve.bias[0, 18, 0]), rel=1e-3)


def test_the_oracle_never_reaches_the_threshold(problems, pairs, generator):
    result = n_star(bias_curve(pairs(problems.Truth(problems.LinearGaussian())), replicas=10, generator=generator), 0)
    assert (result.censored, result.value) == ("above", 1_000_000)


def test_a_hopeless_estimator_is_censored_below(problems, pairs, generator):
    result = n_star(bias_curve(pairs(problems.Truth(problems.LinearGaussian(), shift=[1.0, 0.0])), replicas=10, generator=generator), 0)
    assert (result.censored, result.value) == ("below", 1)


def test_without_oracle_the_noise_of_the_pool_limits_n_star(problems, pairs, generator):
    toy = problems.LinearGaussian()
    result = n_star(bias_curve(pairs(problems.Truth(toy), reference=False), replicas=50, generator=generator), 0)
    # Noise of the pool is sqrt(n / 20,000) sigma without constraints: 0.1 at n = 200; they make it less.
    assert result.censored == "above"
    assert 100 <= result.value <= 1_000


def test_crossing_is_interpolated_and_its_error_is_that_of_the_replicas():
    n = torch.logspace(0, 6, 37, dtype=torch.float64)
    slopes = torch.tensor([0.01, *(0.01 + 0.0005 * math.cos(i) for i in range(200))], dtype=torch.float64)
    curve = BiasCurve(n, (slopes[:, None] * n.sqrt())[:, :, None])
    result = n_star(curve, 0)
    assert result.value == pytest.approx(400.0, rel=1e-6)
    assert 20 < result.stderr < 60


def test_no_valid_surface_gives_nothing():
    curve = BiasCurve(torch.logspace(0, 6, 37), torch.full((3, 37, 1), torch.nan))
    assert math.isnan(n_star(curve, 0).value)


def test_scaling_from_a_measured_bias():
    result = n_star_by_scaling(1_000, -0.5, 0.01)
    assert (result.value, result.stderr) == pytest.approx((160.0, 6.4))
    assert n_star_by_scaling(1_000, 0.01, 0.02).censored == "above"
    assert n_star_by_scaling(100, 9.0, 0.01).censored == "below"


def test_mean_score_is_the_first_order_bias(problems, draw):
    toy = problems.LinearGaussian()
    experiments = draw(toy, [0.3, 0.5], 1_000, 2, n_pool=10_000)
    fits = fit_pseudo_experiments(problems.Truth(toy), experiments)
    estimator = problems.Truth(toy, shift=[0.05, 0.0])
    score = first_order_bias(estimator, problems.Truth(toy), experiments, fits.pool_covariance, None, max_events=5_000)
    assert float(score.bias[0]) == pytest.approx(-0.05 / closed_form_sigma(toy, 1_000), rel=1e-4)
    alone = first_order_bias(estimator, None, experiments, fits.pool_covariance, None, max_events=5_000)
    assert abs(float(alone.bias[0] - score.bias[0])) < 4 * float(alone.stderr[0])
    assert float(alone.stderr[0]) == pytest.approx(math.sqrt(1_000 / 5_000), rel=0.2)


def test_covariance_scales_events_and_not_constraints(problems):
    toy = problems.LinearGaussian()
    at = [toy.closed_form(torch.zeros(1, 2), torch.tensor([n], dtype=torch.float64), torch.zeros(1))[1][0] for n in (100.0, 1_000.0)]
    found = covariance_at(1_000, at[0], 100, torch.zeros(2, dtype=torch.float64), toy.spec.parameters)
    assert torch.allclose(found, at[1], rtol=1e-10)


def test_measured_bias_overrules_the_average_data_set():
    smooth = NStar(1_500.0, 10.0, "above")
    assert reconcile(smooth, [(100, 0.1, 0.02), (1_000, 0.15, 0.02)]) == (smooth, "surface")
    assert reconcile(smooth, [(100, -0.7, 0.06), (1_000, 0.15, 0.02)]) == (NStar(100, 0.0, "below"), "measured")
    assert reconcile(smooth, [(100, -0.3, 0.06)]) == (smooth, "surface")
    assert reconcile(NStar(80.0, 1.0, None), [(100, -0.7, 0.06)])[1] == "surface"
    scaled, method = reconcile(None, [(100, 0.3, 0.01), (1_000, 1.0, 0.01)])
    assert (method, scaled.value) == ("scaling", pytest.approx(100 * (0.2 / 0.3) ** 2))
    assert math.isnan(reconcile(None, [(100, math.nan, math.nan)])[0].value)
