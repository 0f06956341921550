"""near_manifold: density from the full covariance at high precision, conditioning, moments, information."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

THICKNESSES = [1.0, 0.03, 1e-3, 1e-4]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def covariance(config, theta):
    """Of (p1, p2, p1 + p2 + e), in 50 digits."""
    var = (mpmath.mpf(config.t) * mpmath.exp(mpmath.mpf(config.b) * mpmath.mpf(float(theta[3])))) ** 2
    return mpmath.matrix([[1, 0, 1], [0, 1, 1], [1, 1, 2 + var]])


def log_normal(config, x, theta):
    """The trivariate normal by inverse and determinant of its nearly singular covariance, in 50 digits."""
    with mpmath.workdps(50):
        momentum, imbalance, offset, _ = [mpmath.mpf(float(v)) for v in theta]
        mean = [momentum, 0, momentum + mpmath.mpf(config.t) * (imbalance + mpmath.mpf(config.a) * offset)]
        residual = mpmath.matrix([mpmath.mpf(float(v)) - m for v, m in zip(x, mean, strict=True)])
        sigma = covariance(config, theta)
        chi2 = (residual.T * mpmath.inverse(sigma) * residual)[0]
        return float(-(chi2 + mpmath.log(mpmath.det(sigma)) + 3 * mpmath.log(2 * mpmath.pi)) / 2)


def box(toy):
    """Corners of the theta box, and nominal."""
    space = toy.spec.parameters
    corners = list(itertools.product(*zip(space.low.tolist(), space.high.tolist(), strict=True)))
    return torch.cat([space.nominal.unsqueeze(0), torch.tensor(corners, dtype=torch.float64)])


@pytest.mark.parametrize("t", THICKNESSES)
def test_log_prob_is_the_normal_with_the_full_covariance(t):
    """Over the box, on events and 1,000 thicknesses off the plane. The trivariate normal is normalised, and so is what equals it."""
    toy = build_toy("near_manifold", t=t)
    theta = torch.cat([box(toy), toy.spec.parameters.sample_prior(20, generator())])
    x = toy.sample(theta, generator=generator(1)).x.double()
    off = x + torch.tensor([0.0, 0.0, 1_000 * t], dtype=torch.float64)
    for points in (x, off):
        expected = [log_normal(toy.config, row, at) for row, at in zip(points.numpy(), theta.numpy(), strict=True)]
        # p1 + p2 - total keeps 1e-16 of its terms, as the events do.
        np.testing.assert_allclose(toy.log_prob(points, theta).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_integrates_to_one_over_the_box():
    """On a grid of (p1, p2, e): a shear, whose Jacobian is one."""
    toy = build_toy("near_manifold", t=1e-3)
    axis = torch.arange(-8, 8, 0.5, dtype=torch.float64)
    p1, p2, z = torch.cartesian_prod(axis, axis, axis).T
    for theta in box(toy):
        std = 1e-3 * torch.exp(0.1 * theta[3])
        p, e = p1 + theta[0], 1e-3 * (theta[1] + 0.05 * theta[2]) + std * z
        density = toy.log_prob(torch.stack([p, p2, p + p2 + e], -1), theta).exp()
        assert (density * std).sum().item() * 0.5**3 == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("t", [0.03, 1e-3])
def test_moments_of_the_events(t):
    toy = build_toy("near_manifold", t=t)
    theta = torch.tensor([0.4, -0.6, 2.0, -1.5], dtype=torch.float64)
    n = 40_000
    p1, p2, total = toy.sample(theta.expand(n, -1), generator=generator(2)).x.double().numpy().T
    std = t * math.exp(-0.15)
    pulls = np.stack([p1 - 0.4, p2, (total - p1 - p2 - t * (-0.6 + 0.1)) / std])
    for pull in pulls:
        assert stats.kstest(pull, "norm").pvalue > 1e-4
    assert np.abs(pulls.mean(1)).max() < 4 / math.sqrt(n)
    assert np.abs((pulls @ pulls.T / n - np.eye(3)) / np.sqrt((1 + np.eye(3)) / n)).max() < 4.5


@pytest.mark.parametrize("t", [0.03, 1e-3])
def test_score_and_fisher_information_in_closed_form(t):
    toy = build_toy("near_manifold", t=t)
    theta = torch.tensor([0.4, -0.6, 2.0, -1.5], dtype=torch.float64)
    x = toy.sample(theta.expand(20_000, -1), generator=generator(3)).x
    p1, p2, total = x.double().numpy().T
    scale = math.exp(0.15)
    z = (total - p1 - p2 + 0.5 * t) / t * scale
    score = toy.score(x, theta).numpy()
    np.testing.assert_allclose(score, np.stack([p1 - 0.4, z * scale, 0.05 * z * scale, 0.1 * (z**2 - 1)], 1), rtol=1e-8, atol=1e-8)
    response = np.array([[1, 0, 0, 0], [0, scale, 0.05 * scale, 0]])
    fisher = response.T @ response + np.diag([0, 0, 0, 2 * 0.1**2])
    products = score[:, :, None] * score[:, None, :]
    assert np.abs((products.mean(0) - fisher) / (products.std(0) / math.sqrt(len(score)))).max() < 4.5


def test_condition_number_and_the_float32_covariance():
    """What the toy is for: nine over t squared, and at t = 1e-4 nothing of the thickness is left in float32."""
    for t in (0.03, 1e-3, 1e-4):
        values = np.linalg.eigvalsh(np.array(covariance(build_toy("near_manifold", t=t).config, np.zeros(4)).tolist(), dtype=float))
        assert values[-1] / values[0] == pytest.approx(9 / t**2, rel=2e-2)
    single = np.array(covariance(build_toy("near_manifold", t=1e-4).config, np.zeros(4)).tolist(), dtype=np.float32)
    assert np.linalg.det(single.astype(np.float64)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("t", [0.0, 9e-5, 1.5, math.nan])
def test_bad_thickness(t):
    with pytest.raises(InputError, match="option t"):
        build_toy("near_manifold", t=t)
