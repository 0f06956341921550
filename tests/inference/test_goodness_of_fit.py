"""Goodness of fit: statistics against outside oracles, uniform p-values under the model, small ones for a distortion."""

import pytest
import torch
from scipy.stats import chisquare, energy_distance, kstest

from touchneedle.conf.errors import InputError
from touchneedle.inference import Likelihood, fit, goodness_of_fit
from touchneedle.inference.two_sample import BinnedChi2, EnergyDistance


def normal(n, generator, d=1):
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_energy_distance_is_that_of_scipy(generator):
    x, y, weight = normal(60, generator) + 0.4, normal(80, generator), torch.rand(80, generator=generator, dtype=torch.float64)
    ours = EnergyDistance.to(y, weight, 1_000)
    # scipy gives the square root, in the units of x.
    theirs = 60 * energy_distance(x[:, 0], y[:, 0], v_weights=weight) ** 2 / ours.scale[0]
    assert ours(x, weight) == pytest.approx(float(theirs), rel=1e-6)


def test_chi2_is_that_of_scipy(generator):
    x, y = normal(500, generator)[:, 0], normal(5_000, generator)[:, 0]
    weight = torch.ones(5_000, dtype=torch.float64)
    test = BinnedChi2.to(y, weight, 500, 10)
    shares = torch.bincount(test.bins, minlength=10) / 5_000
    assert torch.allclose(shares, torch.full((10,), 0.1), atol=1e-3)
    counts = torch.bincount(torch.bucketize(x, test.edges), minlength=10)
    assert test(x, weight) == pytest.approx(chisquare(counts, 500 * shares.double()).statistic, rel=1e-6)


def test_categories_have_bins_of_their_own(generator):
    y = torch.randint(0, 3, (1_000,), generator=generator).double()
    test = BinnedChi2.to(y, torch.ones(1_000, dtype=torch.float64), 1_000, 20)
    assert len(test.edges) <= 3
    assert len(test.bins.unique()) == 3


def judged(problems, generator, distort=None, n_pseudo=60, n=300, n_reference=16_000):
    toy = problems.LinearGaussian()
    likelihood = Likelihood(problems.Truth(toy))
    theta = torch.tensor([0.2, 0.4], dtype=torch.float64)
    events = toy.sample(theta.expand(n, -1), generator=generator)
    if distort is not None:
        distort(events.x)
    reference = toy.sample(torch.zeros(n_reference, 2, dtype=torch.float64), generator=generator)
    return goodness_of_fit(likelihood, events, reference, fit(likelihood, events), n_pseudo, n_sample=1_000, n_bins=10)


def test_a_distorted_feature_is_found(problems, generator):
    def distort(x):
        # Mean and width stay: no parameter can follow.
        x[:, 1] = torch.where(torch.arange(len(x)) % 2 == 0, x[:, 1].mean() + 1.0, x[:, 1].mean() - 1.0)

    result = judged(problems, generator, distort)
    assert result.names == ("energy distance", "chi2 of a", "chi2 of b")
    assert result.p_value[0] == pytest.approx(1 / 61)
    assert result.p_value[2] == pytest.approx(1 / 61)
    assert result.p_value[1] > 0.02
    assert result.failed == 0
    assert "p = 0.0164" in str(result)


def test_the_model_itself_is_accepted(problems, generator):
    result = judged(problems, generator)
    assert (result.p_value > 0.02).all()
    assert (result.error > 0).all()
    assert result.pool_share < 0.1


@pytest.mark.slow
def test_p_values_are_uniform_under_the_model(problems, generator):
    p_values = torch.stack([judged(problems, generator, n_pseudo=40).p_value for _ in range(100)])
    for column in p_values.T:
        # Discrete in steps of 1/41.
        assert kstest(column - 0.5 / 41, "uniform").pvalue > 1e-3


def test_bad_input_is_one_line(problems, generator):
    toy = problems.LinearGaussian()
    likelihood, events = Likelihood(problems.Truth(toy)), toy.sample(torch.zeros(150, 2, dtype=torch.float64), generator=generator)
    best = fit(likelihood, events)
    with pytest.raises(InputError, match="at least 200 reference events"):
        goodness_of_fit(likelihood, events, events, best)
    with pytest.raises(InputError, match="unit weight"):
        goodness_of_fit(likelihood, events.with_weight(2 * events.weight), events, best)
