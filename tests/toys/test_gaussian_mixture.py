"""gaussian_mixture: density, modes and their dimension scaling."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

OPTIONS = [{}, {"dim": 2, "modes": 3, "correlation": -0.3}, {"dim": 25, "modes": 5, "radius": 4.0, "a": 0.2}, {"dim": 3, "modes": 1}]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def modes(config, theta):
    """Share, mean (d,) and covariance (d, d) of every mode at one theta, written out."""
    d, big_k = config.dim, config.modes
    turn, twist, growth = theta
    position = (2 * np.arange(d) + 1) / (2 * d)
    wave_0, wave_1 = np.full(d, 1 / math.sqrt(d)), math.sqrt(2 / d) * np.cos(math.pi * position)
    found = []
    for k in range(big_k):
        angle = 2 * math.pi * k / big_k
        radial = math.cos(angle) * wave_0 + math.sin(angle) * wave_1
        tangential = -math.sin(angle) * wave_0 + math.cos(angle) * wave_1
        mean = (config.radius + config.a * growth) * radial + (turn + (config.a * twist if k % 2 == 0 else 0)) * tangential
        rho = config.correlation * (1 if k % 2 == 0 else -1)
        covariance = np.array([[rho ** abs(i - j) for j in range(d)] for i in range(d)])
        found.append((2 * (k + 1) / (big_k * (big_k + 1)), mean, covariance))
    return found


def log_densities(config, x, theta):
    """Process densities (n, K) by scipy, one event at a time."""
    return np.array(
        [[stats.multivariate_normal.logpdf(row, m, c) for _, m, c in modes(config, t)] for row, t in zip(x, theta, strict=True)]
    )


def box(toy):
    """Nominal, the corners of the theta box, and the middles of its edges."""
    space = toy.spec.parameters
    sides = zip(space.low.tolist(), space.nominal.tolist(), space.high.tolist(), strict=True)
    return torch.tensor(list(itertools.product(*sides)), dtype=torch.float64)


@pytest.mark.parametrize("options", OPTIONS)
def test_densities_are_those_of_scipy_over_the_box_and_in_the_tails(options):
    toy = build_toy("gaussian_mixture", **options)
    theta = torch.cat([box(toy), toy.spec.parameters.sample_prior(20, generator())])
    shares = np.array([share for share, _, _ in modes(toy.config, theta[0].numpy())])
    for reach in (1.0, 40.0):
        x = toy.sample(theta, generator=generator(1)).x.double()
        x = x + (reach - 1) * torch.randn(x.shape, generator=generator(2), dtype=torch.float64)
        expected = log_densities(toy.config, x.numpy(), theta.numpy())
        np.testing.assert_allclose(toy.log_prob_process(x, theta).numpy(), expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), special.logsumexp(expected, -1, b=shares), rtol=1e-10, atol=1e-10)


def test_integrates_to_one_over_the_box():
    toy = build_toy("gaussian_mixture", dim=2)
    axis = torch.arange(-24, 24, 0.4, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    for theta in box(toy)[::2]:
        assert toy.log_prob(x, theta).exp().sum().item() * 0.4**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("options", OPTIONS)
def test_shares_and_moments_of_the_modes(options):
    toy = build_toy("gaussian_mixture", **options)
    theta = torch.tensor([0.7, -3.0, 2.0], dtype=torch.float64)
    events = toy.sample(theta.expand(40_000, -1), generator=generator(3))
    for k, (share, mean, covariance) in enumerate(modes(toy.config, theta.numpy())):
        residual = events.x[events.label == k].double().numpy() - mean
        n = len(residual)
        assert abs(n / len(events) - share) <= 4.5 * math.sqrt(share * (1 - share) / len(events))
        assert np.abs(residual.mean(0)).max() < 4.5 / math.sqrt(n)
        assert np.abs((residual.T @ residual / n - covariance) / np.sqrt((1 + covariance**2) / n)).max() < 5


def test_score_and_fisher_information_against_quadrature():
    """Score against its closed form in two dimensions, mean product of scores against the integral over a grid."""
    toy = build_toy("gaussian_mixture", dim=2)
    theta = torch.tensor([0.4, 1.0, -0.5], dtype=torch.float64)
    axis = torch.arange(-18, 18, 0.3, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    parts = [
        (f * stats.multivariate_normal.pdf(x, m, c), (x.numpy() - m) @ np.linalg.inv(c)) for f, m, c in modes(toy.config, theta.numpy())
    ]
    density = sum(part for part, _ in parts)
    slope = np.zeros((len(x), 3))
    for k, (part, pulled) in enumerate(parts):
        angle = math.pi * k / 2
        basis = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
        radial, tangential = basis.T @ [math.cos(angle), math.sin(angle)], basis.T @ [-math.sin(angle), math.cos(angle)]
        response = np.stack([tangential, 0.1 * tangential * (k % 2 == 0), 0.1 * radial], 1)
        slope += part[:, None] * (pulled @ response)
    seen = density > 1e-200
    expected = slope[seen] / density[seen, None]
    np.testing.assert_allclose(toy.score(x[seen], theta).numpy(), expected, rtol=1e-8, atol=1e-8)

    fisher = np.einsum("n,ni,nj->ij", density[seen] * 0.3**2, expected, expected)
    score = toy.score(toy.sample(theta.expand(20_000, -1), generator=generator(4)).x, theta).numpy()
    products = score[:, :, None] * score[:, None, :]
    assert np.abs((products.mean(0) - fisher) / (products.std(0) / math.sqrt(len(score)))).max() < 4.5


def test_distance_between_modes_does_not_depend_on_the_dimension():
    """What scales is what one feature shows of it: the spread of the centres, in standard deviations, falls as 1 / sqrt d."""
    for dim in (4, 25, 100):
        means = np.stack([m for _, m, _ in modes(build_toy("gaussian_mixture", dim=dim).config, np.zeros(3))])
        assert np.linalg.norm(means[0] - means[1]) == pytest.approx(8 * math.sqrt(2))
        assert np.abs(means).max() <= 8 * math.sqrt(2 / dim) + 1e-12


def test_bridges_between_modes_are_empty():
    """Halfway between neighbours the density is at least 1e4 times below that of the smallest mode."""
    toy = build_toy("gaussian_mixture")
    centres = torch.from_numpy(np.stack([m for _, m, _ in modes(toy.config, np.zeros(3))]))
    halfway = (centres + centres.roll(1, 0)) / 2
    nominal = toy.spec.parameters.nominal
    assert toy.log_prob(halfway, nominal).max() < toy.log_prob(centres, nominal).min() - math.log(1e4)


def test_batch_invariance_in_many_dimensions():
    toy = build_toy("gaussian_mixture", dim=100)
    events = toy.sample(toy.spec.parameters.sample_prior(10, generator()), generator=generator(1))
    singly = [toy.log_prob(events.x[i : i + 1], events.theta[i : i + 1]) for i in range(10)]
    np.testing.assert_allclose(toy.log_prob(events.x, events.theta).numpy(), torch.cat(singly).numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 1}, "2 to 100"),
        ({"dim": 101}, "2 to 100"),
        ({"modes": 0}, "modes"),
        ({"correlation": -1.0}, "correlation"),
        ({"a": -0.1}, "a"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("gaussian_mixture", **options)
