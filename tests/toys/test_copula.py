"""copula: density from conditional distribution functions, fixed marginals, dependence."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.copula import normal_score

FAMILIES = ["gaussian", "clayton"]
N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def strengths(theta):
    dependence, common, second = (mpmath.mpf(float(v)) for v in theta)
    return dependence + common / 20, mpmath.mpf(1) / 2 + common / 20 + second / 10


def score_of_survival(s):
    """z with Phi(-z) = s, in the working precision."""
    start = mpmath.mpf(float(stats.norm.isf(float(s))))
    return mpmath.findroot(lambda z: mpmath.log(mpmath.ncdf(-z)) - mpmath.log(s), start)


def conditional(family, x2, x1, s):
    """P(X2 > x2 | x1): the derivative of the copula of the survival probabilities in the first of them."""
    s1, s2 = mpmath.exp(-x1), mpmath.exp(-x2)
    if family == "clayton":
        alpha = mpmath.exp(s)
        return s1 ** (-alpha - 1) * (s1**-alpha + s2**-alpha - 1) ** (-1 - 1 / alpha)
    rho = mpmath.tanh(s)
    return mpmath.ncdf(-(score_of_survival(s2) - rho * score_of_survival(s1)) / mpmath.sqrt(1 - rho**2))


def log_density(family, x, theta, digits=40):
    """log of the product of slopes of the conditional distribution functions, in many digits: no copula density is used."""
    with mpmath.workdps(digits):
        x1, x2, x3 = (mpmath.mpf(float(v)) for v in x)
        pairs = zip((x2, x3), (x1, x2), strengths(theta), strict=True)
        slopes = [-mpmath.diff(lambda v, g=given, s=s: conditional(family, v, g, s), at) for at, given, s in pairs]
        return float(-x1 + mpmath.log(slopes[0]) + mpmath.log(slopes[1]))


def corners(toy):
    space = toy.spec.parameters
    return torch.tensor(list(itertools.product(*zip(space.low.tolist(), space.high.tolist(), strict=True))), dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_prob_is_the_slope_of_the_distribution_function_over_the_box(family):
    """A product of slopes of functions that fall from 1 to 0 is normalised, whatever theta."""
    toy = build_toy("copula", family=family)
    theta = torch.cat([corners(toy), toy.spec.parameters.sample_prior(3, generator())])
    x = toy.sample(theta, generator=generator(1)).x.double()
    expected = [log_density(family, row, at) for row, at in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_tails(family):
    toy = build_toy("copula", family=family)
    theta = torch.tensor([0.6, 1.0, -2.0], dtype=torch.float64)
    x = torch.tensor([[30.0, 28.0, 1e-4], [1e-9, 40.0, 1e-6], [55.0, 0.3, 60.0]], dtype=torch.float64)
    expected = [log_density(family, row, theta.numpy(), digits=120) for row in x.numpy()]
    np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), expected, rtol=1e-9, atol=1e-9)
    far = toy.log_prob(torch.tensor([[2e3, 3e3, 0.0], [0.0, 0.0, 0.0]]), theta)
    assert far.isfinite().all()
    assert (toy.log_prob(torch.tensor([[-1e-6, 1.0, 1.0], [1.0, 1.0, -5.0]]), theta) == -math.inf).all()
    assert toy.score(torch.tensor([[-1.0, 1.0, 1.0], [2e3, 3e3, 0.0]]), theta).isfinite().all()


def test_normal_score_at_any_distance():
    x = torch.tensor([1e-12, 0.3, 0.999999, 1.000001, 20.0, 599.0, 601.0, 5e4], dtype=torch.float64)
    z = normal_score(x)
    with mpmath.workdps(60):
        for value, at in zip(z.tolist(), x.tolist(), strict=True):
            # Phi(-z) = exp(-x), or Phi(z) = 1 - exp(-x) where that is the small one.
            tail = mpmath.log(mpmath.erfc(mpmath.mpf(value) / mpmath.sqrt(2)) / 2) if at > 1 else mpmath.log(1 - mpmath.ncdf(value))
            slope = max(1.0, abs(value))
            assert abs(float(tail + mpmath.mpf(at))) < 1e-13 * max(at, 1.0) * slope


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_every_marginal_is_exponential_at_every_theta(family, fixed):
    """The integral over the two other features is exp(-x): normalisation and marginal in one."""
    toy = build_toy("copula", family=family)
    z = torch.arange(-8.5, 8.5, 0.1, dtype=torch.float64)
    axis = -torch.special.log_ndtr(-z)
    jacobian = torch.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) + axis) * 0.1
    others, weight = torch.cartesian_prod(axis, axis), torch.cartesian_prod(jacobian, jacobian).prod(-1)
    for theta, value in [((0.5, 0, 0), 0.2), ((-1.0, -3.0, 2.0), 1.5), ((1.0, 2.0, -4.0), 0.7)]:
        x = torch.full((len(others), 3), value, dtype=torch.float64)
        x[:, [i for i in range(3) if i != fixed]] = others
        found = (toy.log_prob(x, torch.tensor(theta, dtype=torch.float64)).exp() @ weight).item()
        assert found == pytest.approx(math.exp(-value), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("theta", [[-0.9, 3.0, -4.0], [1.0, -2.0, 3.0]])
def test_events_have_exponential_marginals_and_the_right_dependence(family, theta):
    """Kendall's tau is 2 arcsin(rho) / pi for the Gaussian copula and alpha / (alpha + 2) for Clayton's."""
    toy = build_toy("copula", family=family)
    x = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(N, -1), generator=generator(2)).x.double().numpy()
    for column in x.T:
        assert stats.kstest(column, "expon").pvalue > 1e-4
    for i, s in enumerate(strengths(theta)):
        tau = math.exp(s) / (math.exp(s) + 2) if family == "clayton" else 2 / math.pi * math.asin(math.tanh(s))
        # The variance of Kendall's estimate is at most 2 (1 - tau^2) / n.
        assert abs(stats.kendalltau(x[:, i], x[:, i + 1]).statistic - tau) < 4.5 * math.sqrt(2 * (1 - tau**2) / N)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_sees_marginals_only_is_blind(family):
    """What the toy is for: the mean log ratio has the right sign at both points, Kolmogorov and Smirnov see no difference."""
    toy = build_toy("copula", family=family)
    low, high = (torch.tensor([v, 0.0, 0.0], dtype=torch.float64) for v in (-1.0, 1.0))
    a, b = (toy.sample(at.expand(N, -1), generator=generator(seed)).x for at, seed in ((low, 5), (high, 6)))
    assert all(stats.ks_2samp(a[:, i].numpy(), b[:, i].numpy()).pvalue > 1e-3 for i in range(3))
    gap = [(toy.log_prob(x, high) - toy.log_prob(x, low)).mean().item() for x in (a, b)]
    assert gap[0] < -0.05
    assert gap[1] > 0.05


def test_score_and_fisher_information_of_the_gaussian_copula_in_closed_form():
    """The information on s = artanh rho is 1 + rho^2; the pairs are orthogonal because marginals are fixed."""
    toy = build_toy("copula")
    theta = torch.tensor([0.4, -2.0, 1.0], dtype=torch.float64)
    x = toy.sample(theta.expand(N, -1), generator=generator(7)).x
    z = stats.norm.isf(np.exp(-x.double().numpy()))
    response = np.array([[1, 0.05, 0], [0, 0.05, 0.1]])
    rho = np.array([math.tanh(s) for s in strengths(theta)])
    slopes = []
    for i, r in enumerate(rho):
        # d log c / d rho of the bivariate normal, times d rho / d s.
        z1, z2, left = z[:, i], z[:, i + 1], 1 - r**2
        slopes.append(r + ((1 + r**2) * z1 * z2 - r * (z1**2 + z2**2)) / left)
    score = toy.score(x, theta).numpy()
    np.testing.assert_allclose(score, np.stack(slopes, 1) @ response, rtol=1e-8, atol=1e-8)
    products = score[:, :, None] * score[:, None, :]
    pulls = (products.mean(0) - response.T @ np.diag(1 + rho**2) @ response) / (products.std(0) / math.sqrt(N))
    assert np.abs(pulls).max() < 4.5


def test_score_and_fisher_information_of_the_clayton_copula():
    """Score by differences of the second density; information by quadrature over the first pair."""
    toy = build_toy("copula", family="clayton")
    theta = torch.tensor([0.4, 0.0, 0.0], dtype=torch.float64)
    events = toy.sample(theta.expand(N, -1), generator=generator(8)).x
    score = toy.score(events, theta)[:, 0].numpy()
    for row, found in zip(events[:3].double().numpy(), score, strict=False):
        high, low = (log_density("clayton", row, [0.4 + step, 0.0, 0.0]) for step in (1e-4, -1e-4))
        assert found == pytest.approx((high - low) / 2e-4, abs=1e-6)

    z = np.arange(-8, 8, 0.04)
    u = stats.norm.sf(z)
    s1, s2 = np.meshgrid(u, u)
    weight = np.outer(stats.norm.pdf(z), stats.norm.pdf(z)) * 0.04**2

    def log_pair(s):
        alpha = math.exp(s)
        return np.log1p(alpha) - (1 + alpha) * np.log(s1 * s2) - (2 + 1 / alpha) * np.log(s1**-alpha + s2**-alpha - 1)

    slope = (log_pair(0.4 + 1e-5) - log_pair(0.4 - 1e-5)) / 2e-5
    fisher = (np.exp(log_pair(0.4)) * weight * slope**2).sum()
    assert abs((score**2).mean() - fisher) < 4.5 * (score**2).std() / math.sqrt(N)


@pytest.mark.parametrize(("options", "words"), [({"family": "frank"}, "family"), ({"a": 0.0}, "a"), ({"b": math.inf}, "b")])
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("copula", **options)
