"""linear_gaussian: density, moments, and the fit in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit
from touchneedle.toys.base import build_toy

OPTIONS = [{}, {"dim": 2, "interest": 1, "nuisances": 1}, {"dim": 30, "interest": 3, "nuisances": 4, "correlation": -0.8}]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cosine(d, j):
    """Orthonormal cosine vector (a row of the discrete cosine transform of type II)."""
    return np.array([math.sqrt((1 if j == 0 else 2) / d) * math.cos(math.pi * j * (2 * i + 1) / (2 * d)) for i in range(d)])


def model(config):
    """A (d, p), B (d, q) and Sigma (d, d), written out entry by entry."""
    d, p, q = config.dim, config.interest, config.nuisances
    a = np.stack([cosine(d, j) for j in range(p)], 1)
    b = config.response * np.stack([cosine(d, k % p) + cosine(d, p + k) / 5 for k in range(q)], 1)
    return a, b, np.array([[config.correlation ** abs(i - j) for j in range(d)] for i in range(d)])


def box(toy):
    """Nominal, the corners of the theta box, and the middles of its edges."""
    space = toy.spec.parameters
    sides = zip(space.low.tolist(), space.nominal.tolist(), space.high.tolist(), strict=True)
    return torch.tensor(list(itertools.product(*sides)), dtype=torch.float64)[:200]


@pytest.mark.parametrize("options", OPTIONS)
def test_log_prob_is_the_multivariate_normal_over_the_box_and_in_the_tails(options):
    """The normal of scipy is normalised at every theta, and so is what equals it."""
    toy = build_toy("linear_gaussian", **options)
    a, b, sigma = model(toy.config)
    theta = torch.cat([box(toy), toy.spec.parameters.sample_prior(50, generator())])
    mean = theta.numpy() @ np.concatenate([a, b], 1).T
    for reach in (1.0, 30.0):
        x = mean + reach * np.random.default_rng(1).standard_normal(mean.shape)
        expected = [stats.multivariate_normal.logpdf(row, m, sigma) for row, m in zip(x, mean, strict=True)]
        np.testing.assert_allclose(toy.log_prob(torch.from_numpy(x), theta).numpy(), expected, rtol=1e-10, atol=1e-10)


def test_integrates_to_one_over_the_box():
    toy = build_toy("linear_gaussian", dim=2, interest=1, nuisances=1, correlation=-0.6)
    axis = torch.linspace(-10, 10, 201, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    for theta in box(toy):
        assert toy.log_prob(x, theta).exp().sum().item() * 0.1**2 == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_moments_of_the_events(options):
    toy = build_toy("linear_gaussian", **options)
    a, b, sigma = model(toy.config)
    theta = toy.spec.parameters.from_normal(torch.linspace(-1.5, 1.5, toy.spec.theta_dim, dtype=torch.float64))
    n = 40_000
    residual = toy.sample(theta.expand(n, -1), generator=generator(3)).x.double().numpy() - np.concatenate([a, b], 1) @ theta.numpy()
    assert np.abs(residual.mean(0)).max() < 4.5 / math.sqrt(n)
    # Var(e_i e_j) = 1 + sigma_ij^2 for unit variances.
    pulls = (residual.T @ residual / n - sigma) / np.sqrt((1 + sigma**2) / n)
    assert np.abs(pulls).max() < 5


@pytest.mark.parametrize("options", OPTIONS)
def test_score_and_fisher_information_in_closed_form(options):
    toy = build_toy("linear_gaussian", **options)
    a, b, sigma = model(toy.config)
    response = np.concatenate([a, b], 1)
    theta = toy.spec.parameters.from_normal(torch.linspace(-1.5, 1.5, toy.spec.theta_dim, dtype=torch.float64))
    x = toy.sample(theta.expand(20_000, -1), generator=generator(4)).x
    score = toy.score(x, theta).numpy()
    pulled = np.linalg.solve(sigma, (x.double().numpy() - theta.numpy() @ response.T).T).T
    np.testing.assert_allclose(score, pulled @ response, rtol=1e-9, atol=1e-9)
    products = score[:, :, None] * score[:, None, :]
    fisher = response.T @ np.linalg.solve(sigma, response)
    assert np.abs((products.mean(0) - fisher) / (products.std(0) / math.sqrt(len(x)))).max() < 4.5


def test_exact_fit_is_the_profile_in_closed_form():
    """Generalised least squares with covariance Sigma / n + B B^T: best fit and error, off-centre auxiliary measurements."""
    toy = build_toy("linear_gaussian")
    a, b, sigma = model(toy.config)
    events = toy.sample(torch.tensor([0.3, -0.2, 0.8, -0.5], dtype=torch.float64).expand(1_000, -1), generator=generator(5))
    measured = np.array([1.2, -0.4])
    inverse = np.linalg.inv(sigma / len(events) + b @ b.T)
    covariance = np.linalg.inv(a.T @ inverse @ a)
    best = covariance @ a.T @ inverse @ (events.x.double().numpy().mean(0) - b @ measured)

    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy))
    auxiliary = torch.cat([toy.spec.parameters.nominal[:2], torch.from_numpy(measured)])
    result = fit(likelihood, events, auxiliary=auxiliary)
    np.testing.assert_allclose(result.theta[:2].numpy(), best, atol=1e-4)
    np.testing.assert_allclose(result.covariance[:2, :2].numpy(), covariance, rtol=1e-3, atol=1e-6)


def test_product_of_marginals_is_not_the_likelihood_of_the_set():
    """What the toy is for: marginalising the common nuisance event by event understates the error."""
    toy = build_toy("linear_gaussian")
    a, b, sigma = model(toy.config)

    def error(covariance_of_mean):
        return math.sqrt(np.linalg.inv(a.T @ np.linalg.inv(covariance_of_mean) @ a)[0, 0])

    assert error((sigma + b @ b.T) / 1_000) < 0.7 * error(sigma / 1_000 + b @ b.T)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 0}, "dim"),
        ({"interest": 0}, "interest"),
        ({"response": math.nan}, "response"),
        ({"correlation": 1.0}, "correlation"),
        ({"nuisances": 3}, "nuisances: expected 0 to dim - interest = 2"),
        ({"dim": 2.5}, "dim"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("linear_gaussian", **options)
