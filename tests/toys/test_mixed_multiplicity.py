"""The mixed toy: atoms, a discrete count and continuous features, against scipy and exact sums."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 60_000
CORNERS = [(2.0, 0.0, 0.0), *itertools.product((0.5, 5.0), (-14.0, 14.0), (-14.0, 14.0))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def zero_share(theta, share=0.4):
    return 1 / (1 + (1 - share) / share * math.exp(-0.3 * theta[2]))


def log_density(x, theta):
    """The leading jet as scipy's exponentiated Weibull distribution of exponent n, one event at a time."""
    n, leading, isolation = x
    value = stats.poisson.logpmf(n, theta[0])
    if n > 0:
        value += stats.exponweib.logpdf(leading, n, 1, scale=math.exp(0.1 * theta[1]))
    e = zero_share(theta)
    return value + (math.log(e) if isolation == 0 else math.log1p(-e) + stats.expon.logpdf(isolation, scale=1 + n))


def assert_mean(values, expected):
    assert abs(values.double().mean().item() - expected) < 4 * values.double().std().item() / math.sqrt(len(values))


def test_density_matches_second_implementation():
    toy = build_toy("mixed_multiplicity")
    theta = toy.spec.parameters.sample_prior(60, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    expected = [log_density(a, t) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta), expected, rtol=1e-9, atol=1e-9)
    assert {0.0} < set(x[:, 0].tolist())


def test_far_tails_in_closed_form():
    """Largest momenta: n e^-t; smallest: n t^(n-1); many jets: Poisson by Stirling's series in lgamma."""
    toy, theta = build_toy("mixed_multiplicity"), point([2.0, 0.0, 0.0])
    x = point([[3, 700.0, 0.0], [3, 1e-12, 0.0], [150, 9.0, 0.0], [1, 1e-30, 5_000.0]])
    rest = [stats.poisson.logpmf(n, 2.0) for n in (3, 3, 150, 1)]
    tails = [math.log(3) - 700, math.log(3) + 2 * math.log(1e-12), math.log(150) + 149 * math.log(-math.expm1(-9.0)) - 9, 0.0]
    isolation = [math.log(0.4)] * 3 + [math.log(0.6) - 2_500 - math.log(2)]
    np.testing.assert_allclose(toy.log_prob(x, theta), np.sum([rest, tails, isolation], 0), rtol=1e-12)
    assert toy.score(x, theta).isfinite().all()


@pytest.mark.parametrize(("theta", "share"), [(corner, 0.4) for corner in CORNERS] + [(CORNERS[0], 0.01)])
def test_density_sums_and_integrates_to_one(theta, share):
    """Sum over n; Gauss-Legendre in 1 - exp(-t), Gauss-Laguerre in the isolation, both exact here; atoms added."""
    toy = build_toy("mixed_multiplicity", zero_share=share)
    nodes, weight = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(25))
    scale, u = math.exp(0.1 * theta[1]), (nodes + 1) / 2
    momenta, isolations = (-scale * torch.log1p(-u), scale * weight / 2 / (1 - u)), np.polynomial.laguerre.laggauss(5)
    line, line_weight = torch.from_numpy(isolations[0]), torch.from_numpy(isolations[1] * np.exp(isolations[0]))
    total = 0.0
    for n in range(31):
        leading = momenta if n else (point([-1.0]), point([1.0]))
        isolation = torch.cat([point([0.0]), line * (1 + n)]), torch.cat([point([1.0]), line_weight * (1 + n)])
        grid = torch.cartesian_prod(leading[0], isolation[0])
        x = torch.cat([torch.full((len(grid), 1), float(n), dtype=torch.float64), grid], -1)
        total += (toy.log_prob(x, point(theta)).exp() @ torch.cartesian_prod(leading[1], isolation[1]).prod(-1)).item()
    assert total == pytest.approx(1, abs=1e-10)


def test_zero_density_outside_the_support():
    toy, theta = build_toy("mixed_multiplicity"), point([2.0, 0.0, 0.0])
    x = point([[0, 1.0, 0], [2, -1.0, 0], [1.5, 1.0, 0], [-1, -1.0, 0], [1, 0.0, 0], [1, 1.0, -0.1], [1, -3.0, 0], [math.inf, 1.0, 0.0]])
    assert (toy.log_prob(x, theta) == -math.inf).all()
    assert not toy.score(x, theta).isnan().any()


@pytest.mark.parametrize("theta", [(2.0, 0.0, 0.0), (0.5, 3.0, -4.0), (4.5, -14.0, 14.0)])
def test_moments_and_atoms(theta):
    """Mean of the largest of n exponentials: the harmonic number H_n."""
    toy = build_toy("mixed_multiplicity")
    n, leading, isolation = toy.sample(point(theta).expand(N, -1), generator=generator(2)).x.double().T
    assert_mean(n, theta[0])
    assert_mean((n - theta[0]) ** 2, theta[0])
    assert torch.equal(n == 0, leading == -1)
    for count in (1, 3):
        assert_mean(leading[n == count], math.exp(0.1 * theta[1]) * sum(1 / k for k in range(1, count + 1)))
    assert_mean(isolation == 0, zero_share(theta))
    above = isolation[(isolation > 0)] / (1 + n[isolation > 0])
    assert_mean(above, 1.0)
    assert_mean(above**2, 2.0)


def test_score_and_fisher_information():
    """n / lambda - 1; and for an exponential's scale information a^2 per jet alone, logistic e (1 - e) b^2."""
    toy = build_toy("mixed_multiplicity")
    theta = point([1.7, -0.6, 0.8])
    x = toy.sample(theta.expand(N, -1), generator=generator(3)).x.double()
    score = toy.score(x, theta)
    np.testing.assert_allclose(score[:, 0], x[:, 0] / 1.7 - 1, rtol=1e-12, atol=1e-12)
    e = zero_share(theta.tolist())
    np.testing.assert_allclose(score[:, 2], 0.3 * ((x[:, 2] == 0).double() - e), rtol=1e-9, atol=1e-12)
    single = x[:, 0] == 1
    np.testing.assert_allclose(score[single, 1], 0.1 * (x[single, 1] * math.exp(0.06) - 1), rtol=1e-9, atol=1e-12)
    assert_mean(score[:, 0] ** 2, 1 / 1.7)
    assert_mean(score[:, 2] ** 2, 0.09 * e * (1 - e))
    assert_mean(score[single, 1] ** 2, 0.01)
    for column in score.T:
        assert_mean(column, 0.0)


@pytest.mark.parametrize(
    ("options", "words"), [({"zero_share": 0.0}, "zero_share"), ({"zero_share": 1.0}, "zero_share"), ({"fit_events": 0}, "fit_events")]
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("mixed_multiplicity", **options)
