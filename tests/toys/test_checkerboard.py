"""The checkerboard: smeared squares by quadrature, normalisation, moments, entropy without blur, scores."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 40_000
QUARTER = math.pi / 4
THETAS = [(0.0, 0.0, 0.0), (0.3, 2.0, -3.0), *itertools.product((-QUARTER, QUARTER), (-14.0, 14.0), (-14.0, 14.0))]
NODES, WEIGHT = np.polynomial.legendre.leggauss(80)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def sizes(theta):
    """Size of the board and blur."""
    return math.exp(0.01 * theta[1]), 0.15 * math.exp(0.2 * theta[2])


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def log_density(x, theta):
    """The convolution integral of every dark square with the Gaussian, by Gauss-Legendre in both directions."""
    size, blur = sizes(theta)
    y = np.asarray(x) @ rotation(theta[0])
    lines = []
    for i in range(4):
        u = size * (2 * (i - 2) + 1 + NODES)
        exponent = -0.5 * ((y[:, None] - u) / blur) ** 2 - math.log(blur * math.sqrt(2 * math.pi))
        lines.append(logsumexp(exponent, axis=-1, b=size * WEIGHT))
    dark = [lines[i][0] + lines[j][1] for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return logsumexp(dark) - math.log(32 * size**2)


def composite(theta):
    """Nodes x (m, 2) and weights (m,): Gauss-Legendre between the edges, and across each of them, in the board's frame."""
    size, blur = sizes(theta)
    edges = size * np.arange(-4, 5, 2)
    near = sorted({*np.clip(np.concatenate([edges - 9 * blur, edges, edges + 9 * blur]), edges[0] - 9 * blur, edges[-1] + 9 * blur)})
    nodes, weight = np.polynomial.legendre.leggauss(20)
    half = np.diff(near) / 2
    line = np.concatenate([low + h * (nodes + 1) for low, h in zip(near[:-1], half, strict=True)])
    line_weight = np.concatenate([h * weight for h in half])
    y = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return torch.from_numpy(y @ rotation(theta[0]).T), torch.from_numpy(np.outer(line_weight, line_weight).ravel())


def assert_mean(values, expected):
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


def test_density_matches_second_implementation():
    """Events, and points up to 20 blurs off the board."""
    toy = build_toy("checkerboard")
    theta = toy.spec.parameters.sample_prior(60, generator())
    theta[:, 2] = theta[:, 2].abs()
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[::3] *= 1.5
    expected = [log_density(a, t) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("theta", THETAS)
def test_density_integrates_to_one_over_the_box(theta):
    x, weight = composite(theta)
    assert (toy_density(x, theta) @ weight).item() == pytest.approx(1, abs=1e-9)


def toy_density(x, theta):
    return build_toy("checkerboard").log_prob(x, point(theta)).exp()


@pytest.mark.parametrize("theta", THETAS)
def test_moments_in_the_frame_of_the_board(theta):
    """Each coordinate is uniform on the board, smeared; E[y1 y2] is that of the centres of the dark squares."""
    x = build_toy("checkerboard").sample(point(theta).expand(N, -1), generator=generator(2)).x.double()
    y = torch.from_numpy(x.numpy() @ rotation(theta[0]))
    size, blur = sizes(theta)
    for column in y.T:
        assert_mean(column, 0.0)
        assert_mean(column**2, 16 / 3 * size**2 + blur**2)
    assert_mean(y[:, 0] * y[:, 1], size**2)
    waves = torch.sin(math.pi / 2 * y / size).prod(-1)
    assert_mean(waves, (2 / math.pi) ** 2 * math.exp(-((math.pi * blur / 2 / size) ** 2)))


def test_entropy_without_blur_is_that_of_eight_squares():
    toy = build_toy("checkerboard", blur=1e-6)
    events = toy.sample(toy.spec.parameters.nominal.expand(1_000, -1), generator=generator(3))
    inside = toy.log_prob(events.x, events.theta)
    assert inside.median().item() == pytest.approx(-math.log(32), abs=1e-9)
    light = point([[-3.0, -1.0], [1.0, 3.0], [5.0, 5.0]])
    assert (toy.log_prob(light, toy.spec.parameters.nominal) < -1e10).all()


def test_a_half_turn_is_a_symmetry_and_a_quarter_turn_is_not():
    toy, theta = build_toy("checkerboard"), point([0.2, 0.0, 0.0])
    x = toy.sample(theta.expand(100, -1), generator=generator(4)).x.double()
    assert torch.allclose(toy.log_prob(-x, theta), toy.log_prob(x, theta), atol=1e-9)
    turned = torch.stack([-x[:, 1], x[:, 0]], -1)
    assert (toy.log_prob(turned, theta) - toy.log_prob(x, theta)).median() < -3


def test_score_against_finite_differences_and_fisher_information():
    """Slopes of the second implementation; information by quadrature of (dp)^2 / p."""
    toy, theta, step = build_toy("checkerboard"), np.array([0.2, 1.0, 0.5]), 1e-5
    x = toy.sample(point(theta.tolist()).expand(N, -1), generator=generator(5)).x.double()
    score = toy.score(x, point(theta.tolist()))
    slopes = [[log_density(a, theta + step * e) - log_density(a, theta - step * e) for e in np.eye(3)] for a in x[:15].numpy()]
    np.testing.assert_allclose(score[:15], np.array(slopes) / (2 * step), rtol=1e-4, atol=1e-4)
    grid, weight = composite(theta)
    p = toy_density(grid, theta.tolist())
    for i, e in enumerate(np.eye(3)):
        slope = (toy_density(grid, (theta + step * e).tolist()) - toy_density(grid, (theta - step * e).tolist())) / (2 * step)
        assert_mean(score[:, i] ** 2, (weight @ torch.where(p > 0, slope**2 / p, 0.0)).item())


def test_far_away_everything_is_finite():
    toy = build_toy("checkerboard")
    x = point([[1e4, -1e4], [0.0, 300.0], [1e3, 1e3]])
    for theta in THETAS:
        assert toy.log_prob(x, point(theta)).isfinite().all()
        assert toy.score(x, point(theta)).isfinite().all()


@pytest.mark.parametrize("options", [{"blur": 0.0}, {"fit_events": 0}])
def test_bad_options(options):
    with pytest.raises(InputError, match=next(iter(options))):
        build_toy("checkerboard", **options)
