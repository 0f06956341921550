"""slcp: density against 50 digits, near-singular covariances, modes, distractors."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def covariance(theta):
    """As the paper writes it, in the working precision."""
    s1, s2, rho = mpmath.mpf(float(theta[2])) ** 2, mpmath.mpf(float(theta[3])) ** 2, mpmath.tanh(mpmath.mpf(float(theta[4])))
    jitter = mpmath.mpf(10) ** -6
    return mpmath.matrix([[s1**2 + jitter, rho * s1 * s2], [rho * s1 * s2, s2**2 + jitter]])


def log_density(x, theta):
    """Sum of four bivariate normals by inverse and determinant in 50 digits, and of Student's t by scipy."""
    with mpmath.workdps(50):
        sigma = covariance(theta)
        inverse, log_det = mpmath.inverse(sigma), mpmath.log(mpmath.det(sigma))
        total = mpmath.mpf(0)
        for first, second in x[:8].reshape(4, 2):
            r = mpmath.matrix([mpmath.mpf(float(first)) - float(theta[0]), mpmath.mpf(float(second)) - float(theta[1])])
            total -= ((r.T * inverse * r)[0] + log_det) / 2 + mpmath.log(2 * mpmath.pi)
    return float(total) + stats.t(2).logpdf(x[8:]).sum()


def box(toy):
    """Nominal, the corners of the theta box, and the middles of its edges: theta_3 = 0 and theta_4 = 0 are among them."""
    space = toy.spec.parameters
    sides = [(low, 0.0, high) for low, high in zip(space.low.tolist(), space.high.tolist(), strict=True)]
    return torch.cat([space.nominal.unsqueeze(0), torch.tensor(list(itertools.product(*sides)), dtype=torch.float64)[1::8]])


@pytest.mark.parametrize("distractors", [0, 3])
def test_log_prob_in_50_digits_over_the_box_and_in_the_tails(distractors):
    """The normals and the t are normalised at every theta, and so is what equals their product."""
    toy = build_toy("slcp", distractors=distractors)
    theta = torch.cat([box(toy), toy.spec.parameters.sample_prior(20, generator())])
    x = toy.sample(theta, generator=generator(1)).x.double()
    off = theta[:, :2].repeat(1, 4) + 50 * (x[:, :8] - theta[:, :2].repeat(1, 4))
    for points in (x, torch.cat([off, 1e4 * x[:, 8:]], -1)):
        expected = [log_density(row, at) for row, at in zip(points.numpy(), theta.numpy(), strict=True)]
        np.testing.assert_allclose(toy.log_prob(points, theta).numpy(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("theta", [[0.7, -2.9, -1.0, -0.9, 0.6], [0.0, 0.0, 2.0, -0.2, -2.5], [1.0, 3.0, 0.0, 1.0, 3.0]])
def test_integrates_to_one_over_one_draw(theta):
    """Four times the same draw is the fourth power of a bivariate normal, on a grid in its standard deviations."""
    toy = build_toy("slcp")
    root = np.linalg.cholesky(np.array(covariance(theta).tolist(), dtype=float))
    axis = np.arange(-8, 8, 0.25)
    z = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    x = torch.from_numpy(np.tile(z @ root.T + theta[:2], 4))
    log_draw = toy.log_prob(x, torch.tensor(theta, dtype=torch.float64)).numpy() / 4
    assert np.exp(log_draw).sum() * 0.25**2 * np.linalg.det(root) == pytest.approx(1, abs=1e-8)


def test_moments_of_the_events():
    toy = build_toy("slcp", distractors=2)
    theta = [0.7, -2.9, -1.2, 0.8, 1.1]
    events = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(N, -1), generator=generator(2))
    x = events.x.double().numpy()
    residual = x[:, :8] - np.tile(theta[:2], 4)
    expected = np.kron(np.eye(4), np.array(covariance(theta).tolist(), dtype=float))
    variances = np.diag(expected)
    assert np.abs(residual.mean(0) / np.sqrt(variances / N)).max() < 4.5
    assert np.abs((residual.T @ residual / N - expected) / np.sqrt((np.outer(variances, variances) + expected**2) / N)).max() < 5
    for column in (8, 9):
        assert stats.kstest(x[:, column], stats.t(2).cdf).pvalue > 1e-4
    ranks = stats.spearmanr(x).statistic[8:]
    assert np.abs(ranks[ranks < 1 - 1e-9]).max() < 4.5 / math.sqrt(N)


def test_distractors_say_nothing_about_theta():
    plain, noisy = build_toy("slcp"), build_toy("slcp", distractors=92)
    assert noisy.spec.x_dim == 100
    theta = plain.spec.parameters.sample_prior(20, generator())
    x = noisy.sample(theta, generator=generator(1)).x
    np.testing.assert_allclose(noisy.score(x, theta).numpy(), plain.score(x[:, :8], theta).numpy(), rtol=1e-12, atol=1e-12)


def test_score_and_fisher_information_in_closed_form():
    """F_ij = 4 [dm_i S^-1 dm_j + tr(S^-1 dS_i S^-1 dS_j) / 2], with the derivatives of S written out."""
    toy = build_toy("slcp")
    theta = [0.7, -2.9, -1.2, 0.8, 1.1]
    _, _, t3, t4, t5 = theta
    s1, s2, rho = t3**2, t4**2, math.tanh(t5)
    inverse = np.linalg.inv(np.array(covariance(theta).tolist(), dtype=float))
    mean_slope = np.array([[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]])
    off = s1 * s2 * (1 - rho**2)
    slope = np.array([
        [[0, 0], [0, 0]],
        [[0, 0], [0, 0]],
        [[4 * t3**3, 2 * t3 * rho * s2], [2 * t3 * rho * s2, 0]],
        [[0, 2 * t4 * rho * s1], [2 * t4 * rho * s1, 4 * t4**3]],
        [[0, off], [off, 0]],
    ])  # fmt: skip
    pulled = inverse @ slope
    fisher = 4 * (mean_slope @ inverse @ mean_slope.T + np.einsum("iab,jba->ij", pulled, pulled) / 2)

    x = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(N, -1), generator=generator(3)).x
    score = toy.score(x, torch.tensor(theta, dtype=torch.float64)).numpy()
    r = (x.double().numpy().reshape(-1, 4, 2) - theta[:2]) @ inverse
    expected = r.sum(1) @ mean_slope.T + (np.einsum("nka,iab,nkb->ni", r, slope, r) - 4 * np.einsum("iaa->i", pulled)) / 2
    np.testing.assert_allclose(score, expected, rtol=1e-7, atol=1e-7)
    products = score[:, :, None] * score[:, None, :]
    assert np.abs((products.mean(0) - fisher) / (products.std(0) / math.sqrt(N))).max() < 4.5


def test_four_equal_maxima():
    toy = build_toy("slcp")
    x = toy.sample(toy.spec.parameters.nominal.expand(10, -1), generator=generator()).x
    for signs in itertools.product((-1, 1), repeat=2):
        mirrored = toy.spec.parameters.nominal * torch.tensor([1, 1, *signs, 1])
        assert torch.equal(toy.log_prob(x, mirrored), toy.log_prob(x, toy.spec.parameters.nominal))
    assert not toy.regular


def test_scores_are_finite_where_the_covariance_is_almost_singular():
    toy = build_toy("slcp")
    theta = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0, 3.0], [1.0, -1.0, 3.0, 0.0, -3.0]], dtype=torch.float64)
    x = toy.sample(theta, generator=generator()).x
    assert toy.score(x, theta).isfinite().all()


def test_bad_options():
    with pytest.raises(InputError, match="distractors"):
        build_toy("slcp", distractors=-1)
