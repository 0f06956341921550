"""The mixture-weights toy: density, normalisation, moments, scores, Fisher information."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 60_000
THETAS = [(0.25, 0.25, 0.0), (0.5, 0.5, 1.0), (0.0, 0.0, -3.0), (0.4, 0.05, 14.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def components(x, theta):
    """scipy's bivariate normals of one or many events."""
    means = [(0, 0), (0.2 * theta[2], 0), (0, 0)]
    covariances = [np.diag([1, 1]), np.diag([4, 0.5]), np.diag([0.5, 4])]
    return np.stack([stats.multivariate_normal.pdf(x, m, c) for m, c in zip(means, covariances, strict=True)], -1)


def weights(theta):
    return np.array([1 - theta[0] - theta[1], theta[0], theta[1]])


def assert_mean(values, expected):
    assert abs(values.mean().item() - expected) <= 4 * values.std().item() / math.sqrt(len(values))


def test_density_matches_second_implementation():
    toy = build_toy("mixture_weights")
    theta = toy.spec.parameters.sample_prior(200, generator())
    x = 3 * torch.randn(200, 2, generator=generator(1), dtype=torch.float64)
    found = toy.log_prob(x, theta).numpy()
    expected = [math.log(weights(t) @ components(a, t)) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    processes = np.stack([np.log(components(a, t)) for a, t in zip(x.numpy(), theta.numpy(), strict=True)])
    np.testing.assert_allclose(toy.log_prob_process(x, theta), processes, rtol=1e-10, atol=1e-10)


def test_density_integrates_to_one_over_the_box():
    toy = build_toy("mixture_weights")
    side = torch.linspace(-24, 24, 241, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    for theta in itertools.product((0.0, 0.5), (0.0, 0.5), (-14.0, 14.0)):
        assert toy.log_prob(x, point(theta)).exp().sum().item() * 0.2**2 == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("theta", THETAS)
def test_moments_per_process(theta):
    toy = build_toy("mixture_weights")
    events = toy.sample(point(theta).expand(N, -1), generator=generator(2))
    x = events.x.double()
    for label, (share, mean, variances) in enumerate(
        zip(weights(theta), (0, 0.2 * theta[2], 0), ((1, 1), (4, 0.5), (0.5, 4)), strict=True)
    ):
        chosen = events.label == label
        if share == 0:
            assert not chosen.any()
            continue
        assert_mean(chosen.double(), share)
        assert_mean(x[chosen, 0], mean)
        assert_mean((x[chosen, 0] - mean) ** 2, variances[0])
        assert_mean(x[chosen, 1] ** 2, variances[1])


@pytest.mark.parametrize("theta", THETAS)
def test_score_in_closed_form_up_to_the_corners(theta):
    """d log p / d w_k = (p_k - p_0) / p, d log p / d shift = w_2 p_2 0.2 (x1 - mean) / 4 / p; far tails stay finite."""
    toy = build_toy("mixture_weights")
    x = 2 * torch.randn(100, 2, generator=generator(3), dtype=torch.float64)
    parts = components(x.numpy(), theta)
    total = parts @ weights(theta)
    shift = weights(theta)[1] * parts[:, 1] * 0.2 * (x[:, 0].numpy() - 0.2 * theta[2]) / 4
    expected = np.stack([parts[:, 1] - parts[:, 0], parts[:, 2] - parts[:, 0], shift], -1) / total[:, None]
    np.testing.assert_allclose(toy.score(x, point(theta)), expected, rtol=1e-9, atol=1e-12)
    far = torch.tensor([[300.0, 0.0], [0.0, -300.0], [200.0, 200.0]], dtype=torch.float64)
    assert toy.log_prob(far, point(theta)).isfinite().all()
    assert toy.score(far, point(theta)).isfinite().all()


def test_fisher_information_against_quadrature():
    toy = build_toy("mixture_weights")
    theta = point([0.2, 0.3, 1.0])
    side = torch.linspace(-16, 16, 321, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    parts = torch.from_numpy(components(grid.numpy(), theta.numpy()))
    density = parts @ torch.from_numpy(weights(theta.numpy()))
    slopes = torch.stack([parts[:, 1] - parts[:, 0], parts[:, 2] - parts[:, 0]], -1)
    expected = 0.1**2 * (slopes.T / density) @ slopes
    score = toy.score(toy.sample(theta.expand(N, -1), generator=generator(4)).x, theta)[:, :2]
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_mean(score[:, i] * score[:, j], expected[i, j].item())


def test_joint_truth_is_that_of_the_drawn_process():
    """log of rate times process density, against nominal."""
    toy = build_toy("mixture_weights")
    theta = toy.spec.parameters.sample_prior(50, generator())
    events = toy.sample(theta, generator=generator(5))

    def joint(x, t, label):
        return math.log(weights(t)[label] * components(x, t)[label])

    rows = zip(events.x.double().numpy(), theta.numpy(), events.label.tolist(), strict=True)
    expected = [joint(x, t, k) - joint(x, (0.25, 0.25, 0.0), k) for x, t, k in rows]
    np.testing.assert_allclose(events.joint_log_ratio, expected, rtol=1e-9, atol=1e-9)


def test_rates_and_bad_options():
    toy = build_toy("mixture_weights", fit_events=500)
    assert toy.rates(point([[0.1, 0.4, 2.0]]))[0].tolist() == pytest.approx([250, 50, 200])
    with pytest.raises(InputError, match="fit_events"):
        build_toy("mixture_weights", fit_events=-1)
