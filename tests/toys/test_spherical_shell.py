"""The spherical shell: radial density, normalisation in the plane and in space, directions, scores."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 40_000
CORNERS = [(2.0, 0.0), *itertools.product((1.0, 3.0), (-14.0, 14.0))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def radial(theta):
    """scipy's truncated normal distribution of the radius."""
    width = 0.25 * np.exp(0.2 * theta[1])
    return stats.truncnorm(-theta[0] / width, math.inf, theta[0], width)


def ball_volume(d):
    """V_d = 2 pi / d V_(d-2)."""
    return [1.0, 2.0][d] if d < 2 else 2 * math.pi / d * ball_volume(d - 2)


def assert_mean(values, expected):
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("dim", [2, 3, 7, 20])
def test_density_matches_second_implementation(dim):
    """Mass of a thin shell over its volume, d V_d r^(d - 1) dr."""
    toy = build_toy("spherical_shell", dim=dim)
    theta = toy.spec.parameters.sample_prior(50, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[::5] *= 4
    radius = x.norm(dim=-1).numpy()
    expected = radial(theta.numpy().T).logpdf(radius) - np.log(dim * ball_volume(dim) * radius ** (dim - 1))
    np.testing.assert_allclose(toy.log_prob(x, theta), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("theta", CORNERS)
@pytest.mark.parametrize("dim", [2, 5])
def test_density_integrates_to_one_over_the_box(theta, dim):
    """Along a ray, times the sphere that is d V_d: Gauss-Legendre from the centre to 12 sigma."""
    toy = build_toy("spherical_shell", dim=dim)
    width = 0.25 * math.exp(0.2 * theta[1])
    nodes, weight = np.polynomial.legendre.leggauss(400)
    low, high = max(0, theta[0] - 12 * width), theta[0] + 12 * width
    r = low + (high - low) / 2 * (nodes + 1)
    direction = torch.nn.functional.normalize(torch.arange(1.0, dim + 1, dtype=torch.float64), dim=0)
    p = toy.log_prob(torch.from_numpy(r)[:, None] * direction, point(theta)).exp().numpy()
    assert (high - low) / 2 * weight @ (p * dim * ball_volume(dim) * r ** (dim - 1)) == pytest.approx(1, abs=1e-10)


def test_density_integrates_to_one_in_cartesian_coordinates():
    """The plane by the trapezoidal rule, five dimensions by importance sampling from a Gaussian."""
    side = torch.linspace(-5.99, 5.99, 600, dtype=torch.float64)
    plane = build_toy("spherical_shell", dim=2).log_prob(torch.cartesian_prod(side, side), point([2.0, 0.0])).exp()
    assert plane.sum().item() * 0.02**2 == pytest.approx(1, abs=1e-9)
    z = torch.randn(N, 5, generator=generator(2), dtype=torch.float64)
    proposal = -0.5 * z.square().sum(-1) - 2.5 * math.log(2 * math.pi)
    ratio = torch.exp(build_toy("spherical_shell", dim=5).log_prob(z, point([2.0, 1.0])) - proposal)
    assert_mean(ratio, 1.0)


@pytest.mark.parametrize("theta", CORNERS)
@pytest.mark.parametrize("dim", [2, 9])
def test_radii_and_directions(theta, dim):
    """Radii follow the truncated normal; n_i^2 has mean 1/d and n_i^4 3 / (d (d + 2))."""
    x = build_toy("spherical_shell", dim=dim).sample(point(theta).expand(N, -1), generator=generator(3)).x.double()
    radius = x.norm(dim=-1)
    assert stats.kstest(radius.numpy(), radial(theta).cdf).pvalue > 1e-4
    direction = x / radius[:, None]
    for i in (0, dim - 1):
        assert_mean(direction[:, i], 0.0)
        assert_mean(direction[:, i] ** 2, 1 / dim)
        assert_mean(direction[:, i] ** 4, 3 / (dim * (dim + 2)))
    assert_mean(direction[:, 0] * direction[:, -1], 0.0)


@pytest.mark.parametrize("theta", CORNERS)
def test_score_in_closed_form_and_fisher_information(theta):
    """With h the hazard phi(R/s) / Phi(R/s) of the truncation: (z - h) / s and b (z^2 - 1 + h R/s)."""
    toy = build_toy("spherical_shell")
    x = toy.sample(point(theta).expand(N, -1), generator=generator(4)).x.double()
    width = 0.25 * math.exp(0.2 * theta[1])
    hazard = stats.norm.pdf(theta[0] / width) / stats.norm.cdf(theta[0] / width)

    def scores(r):
        z = (r - theta[0]) / width
        return np.stack([(z - hazard) / width, 0.2 * (z**2 - 1 + hazard * theta[0] / width)], -1)

    found = toy.score(x, point(theta))
    np.testing.assert_allclose(found, scores(x.norm(dim=-1).numpy()), rtol=1e-9, atol=1e-9)
    nodes, weight = np.polynomial.legendre.leggauss(400)
    low, high = max(0, theta[0] - 12 * width), theta[0] + 12 * width
    r = low + (high - low) / 2 * (nodes + 1)
    information = (high - low) / 2 * (weight * radial(theta).pdf(r)) @ scores(r) ** 2
    for i in (0, 1):
        assert_mean(found[:, i] ** 2, information[i])


def test_centre_and_far_away_are_finite():
    toy = build_toy("spherical_shell", dim=4)
    x = torch.zeros(3, 4, dtype=torch.float64)
    x[1, 0], x[2, 3] = 1e4, 1e-200
    for theta in CORNERS:
        assert toy.log_prob(x, point(theta)).isfinite().all()
        assert toy.score(x, point(theta)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"), [({"dim": 1}, "dim"), ({"dim": 21}, "dim"), ({"width": 0.0}, "width"), ({"fit_events": 0}, "fit")]
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("spherical_shell", **options)
