"""The signed mixture: density, signed weights, unweighted data, and the controls that know it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.oracle_shifted import profiled_sigma
from touchneedle.toys.base import build_toy

N = 100_000
THETAS = [(0.0, 0.0), (0.3, 1.0), (-0.9, -2.0), (1.0, 0.5), (2.0, 14.0), (-1.0, -14.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def density(x, theta):
    """scipy's bivariate normals, one event at a time."""
    mu, nu = theta
    k = math.exp(0.05 * nu)

    def normal(width):
        return stats.multivariate_normal.pdf(x, [0, 0], width**2 * np.eye(2))

    return (1 - mu) * (4 * normal(2.5) - normal(2.3)) / 3 + mu * (2 * normal(2 * k) - normal(1.2 * k))


def assert_mean(values, expected):
    assert abs(values.mean().item() - expected) <= 4 * values.std().item() / math.sqrt(len(values))


def information_of_mu(toy):
    """Radial quadrature of (target - source)^2 / source at nominal."""
    r = np.linspace(0, 40, 40_001)
    x = np.stack([r, np.zeros_like(r)], -1)
    source, target = density(x, (0, 0)), density(x, (1, 0))
    return np.trapezoid(2 * math.pi * r * (target - source) ** 2 / source, r)


def test_density_matches_second_implementation():
    toy = build_toy("signed_mixture")
    theta = toy.spec.parameters.sample_prior(100, generator())
    x = 3 * torch.randn(100, 2, generator=generator(1), dtype=torch.float64)
    expected = [density(a, t) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.density(x, theta).numpy(), expected, rtol=1e-10, atol=1e-16)
    assert (np.array(expected) < 0).any()


@pytest.mark.parametrize("theta", THETAS)
def test_density_integrates_to_one(theta):
    """Trapezoidal rule in the plane, which converges exponentially for Gaussians wider than the step."""
    side = np.linspace(-40, 40, 401)
    x = torch.cartesian_prod(torch.from_numpy(side), torch.from_numpy(side))
    total = build_toy("signed_mixture").density(x, point(theta)).sum() * (side[1] - side[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("theta", THETAS)
def test_weighted_events_follow_the_density(theta):
    """Weighted moments in closed form, and the weight per component."""
    toy = build_toy("signed_mixture")
    events = toy.sample(point(theta).expand(N, -1), generator=generator(2))
    mu, k = theta[0], math.exp(0.05 * theta[1])
    shares, widths = [4 / 3 * (1 - mu), -(1 - mu) / 3, 2 * mu, -mu], [2.5, 2.3, 2 * k, 1.2 * k]
    square = events.x.double().square().sum(-1)
    assert_mean(events.weight, 1.0)
    assert_mean(events.weight * square, sum(c * 2 * w**2 for c, w in zip(shares, widths, strict=True)))
    assert_mean(events.weight * torch.exp(-square / 8), sum(c / (1 + w**2 / 4) for c, w in zip(shares, widths, strict=True)))
    for label, share in enumerate(shares):
        assert_mean(torch.where(events.label == label, events.weight, 0.0), share)
    np.testing.assert_allclose(toy.rates(point(theta)[None])[0], [1_000 * share for share in shares], rtol=1e-12, atol=1e-9)


def test_effective_share_of_events_is_that_of_the_paper():
    toy = build_toy("signed_mixture")
    for mu, share in ((0.0, 0.36), (1.0, 1 / 9)):
        weight = toy.sample(point([mu, 0.0]).expand(N, -1), generator=generator(3)).weight
        assert (weight.mean() ** 2 / weight.square().mean()).item() == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("theta", [(0.0, 0.0), (0.35, 0.0), (-0.8, 1.0)])
def test_observed_events_have_unit_weight_and_follow_the_density(theta):
    """Radii against the closed cumulative distribution of the mixture."""
    toy = build_toy("signed_mixture")
    events = toy.observe(point(theta).expand(20_000, -1), generator=generator(4))
    mu, k = theta[0], math.exp(0.05 * theta[1])

    def cdf(r):
        parts = zip([4 / 3 * (1 - mu), -(1 - mu) / 3, 2 * mu, -mu], [2.5, 2.3, 2 * k, 1.2 * k], strict=True)
        return sum(c * stats.rayleigh.cdf(r, scale=w) for c, w in parts)

    assert events.weight.tolist() == [1.0] * len(events)
    assert stats.kstest(events.x.double().norm(dim=-1).numpy(), cdf).pvalue > 1e-4


def test_events_cannot_be_observed_where_the_density_is_negative():
    toy = build_toy("signed_mixture")
    with pytest.raises(InputError, match="density is negative; got mu = 1"):
        toy.observe(point([1.0, 0.0]).expand(1_000, -1), generator=generator())
    with pytest.raises(InputError, match="mu"):
        toy.observe(point([3.0, 0.0]).expand(3, -1), generator=generator())


def test_oracle_answers_signed_ratios():
    toy = build_toy("signed_mixture")
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    x = torch.tensor([[0.0, 0.0], [2.0, 1.0], [5.0, -5.0], [30.0, 0.0]])
    theta = point([1.0, 0.7])
    expected = np.array([density(a, theta.tolist()) / density(a, (0, 0)) for a in x.numpy()])
    np.testing.assert_allclose(oracle.ratio(x, theta), expected, rtol=1e-9)
    np.testing.assert_allclose(oracle.log_ratio(x, theta), np.log(np.where(expected > 0, expected, math.nan)), rtol=1e-9)
    assert expected[0] < 0
    assert oracle.capabilities == {"score", "signed"}
    with pytest.raises(InputError, match="no log_prob"):
        oracle.log_prob(x, theta)


def test_oracle_ratio_of_an_exact_toy_is_the_exponential():
    toy = build_toy("gaussian_shift")
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    x, theta = torch.tensor([[0.3], [-2.0]]), point([0.2, 1.0, -0.5])
    assert torch.equal(oracle.ratio(x, theta), oracle.log_ratio(x, theta).exp())
    assert "signed" not in oracle.capabilities


def test_score_of_mu_and_fisher_information():
    """At nominal: (target - source) / source, no score of the nuisance, and sigma by quadrature."""
    toy = build_toy("signed_mixture")
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    x = toy.observe(toy.spec.parameters.nominal.expand(N, -1), generator=generator(5)).x
    score = oracle.score(x, toy.spec.parameters.nominal)
    expected = density(x[:50].double().numpy(), (1, 0)) / density(x[:50].double().numpy(), (0, 0)) - 1
    np.testing.assert_allclose(score[:50, 0], expected, rtol=1e-9)
    assert score[:, 1].abs().max() == 0
    information = information_of_mu(toy)
    assert_mean(score[:, 0].square(), information)
    # 20,000 weighted events of 36 % effective share.
    assert profiled_sigma(toy)[0].item() == pytest.approx((1_000 * information) ** -0.5, rel=0.05)
    assert profiled_sigma(toy)[1].item() == pytest.approx(1)


def test_conformance_and_batch_invariance():
    toy = build_toy("signed_mixture")
    results = check_toy(toy)
    assert [(result.name, result.message) for result in results if not result.passed] == []
    assert "normalised" in {result.name for result in results}
    x = torch.randn(5, 2, generator=generator())
    singly = torch.cat([toy.density(row[None], point([0.4, 1.0])) for row in x])
    assert torch.allclose(toy.density(x, point([0.4, 1.0])), singly, rtol=1e-13)


def test_bad_option():
    with pytest.raises(InputError, match="fit_events"):
        build_toy("signed_mixture", fit_events=0)
