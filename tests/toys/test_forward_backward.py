"""forward_backward against mpmath and quadrature: density, normalisation, yield, events, score and information."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

CORNERS = list(itertools.product((-0.75, 0.75), (-14.0, 14.0), (-14.0, 14.0)))
POINTS = [(0.3, 0.0, 0.0), (-0.5, 2.0, -3.0), (0.7, -5.0, 4.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def second(theta, edge=0.9, turn_off=0.02):
    """Tilt, edge, and unnormalised density in numpy: the efficiency is a box smeared with a Gaussian."""
    w = 0.05 / (0.05 + 0.45 * math.exp(-0.5 * theta[1])) * 0.5
    tilt, c0 = theta[0] * (1 - 2 * w), edge + 0.004 * theta[2]

    def density(c):
        efficiency = special.ndtr((c0 - c) / turn_off) - special.ndtr((-c0 - c) / turn_off)
        return ((1 + c**2) * 3 / 8 + tilt * c) * efficiency

    return tilt, c0, density


def panels(low, high, n):
    """Nodes and weights of n Gauss-Legendre panels of 20 nodes each."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = (high - low) / n / 2
    centres = low + half * (2 * np.arange(n) + 1)
    return (centres[:, None] + half * nodes).ravel(), np.tile(half * weights, n)


C, WEIGHT = panels(-1, 1, 400)


def second_mass(theta, **options):
    return second(theta, **options)[2](C) @ WEIGHT


def log_density_in_the_tails(c, theta):
    """By symmetry the window lies in the lower tails, where the distribution function keeps its digits."""
    tilt, c0, _ = second(theta)
    far, near = (-c0 - mpmath.mpf(abs(c))) / 0.02, (c0 - mpmath.mpf(abs(c))) / 0.02
    return float(mpmath.log((mpmath.ncdf(near) - mpmath.ncdf(far)) * ((1 + c**2) * 3 / 8 + tilt * c)))


@pytest.mark.parametrize("theta", [*POINTS, *CORNERS])
def test_log_prob_matches_mpmath_up_to_the_ends(theta):
    toy = build_toy("forward_backward")
    cosine = np.array([-1.0, -0.97, -0.9, -0.3, 0.0, 0.5, 0.88, 0.93, 1.0])
    expected = [log_density_in_the_tails(c, theta) - math.log(second_mass(theta)) for c in cosine]
    found = toy.log_prob(torch.from_numpy(cosine).unsqueeze(-1), torch.tensor(theta, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"turn_off": 0.2}, {"turn_off": 0.002, "edge": 0.6}])
def test_integrates_to_one_over_the_box_and_yield_follows(options):
    toy = build_toy("forward_backward", **options)
    thetas = torch.tensor([*POINTS, *CORNERS], dtype=torch.float64)
    mass = [toy.log_prob(torch.from_numpy(C).unsqueeze(-1), theta).exp() @ torch.from_numpy(WEIGHT) for theta in thetas]
    np.testing.assert_allclose(mass, 1, atol=1e-9)
    shares = [second_mass(theta, **options) for theta in thetas.tolist()]
    np.testing.assert_allclose(toy.expected_events(thetas), 1_000 * np.array(shares) / shares[0], rtol=1e-9)


def test_a_narrow_turn_off_is_the_hard_cut():
    toy = build_toy("forward_backward", turn_off=1e-6, b=0.0)
    theta = toy.spec.parameters.nominal
    cosine = torch.tensor([[-0.899], [0.2], [0.899], [0.901]], dtype=torch.float64)
    expected = (0.375 * (1 + cosine**2) + 0.3 * 0.9 * cosine)[:, 0] / (0.75 * (0.9 + 0.9**3 / 3)) * torch.tensor([1.0, 1, 1, 0])
    assert torch.allclose(toy.log_prob(cosine, theta).exp(), expected, atol=1e-12)


@pytest.mark.parametrize("theta", POINTS)
def test_events_follow_the_cumulative_distribution(theta):
    toy = build_toy("forward_backward")
    events = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(20_000, -1), generator=generator(2))
    grid = np.linspace(-1, 1, 20_001)
    cumulative = integrate.cumulative_simpson(second(theta)[2](grid), x=grid, initial=0)
    result = stats.kstest(events.x[:, 0].numpy(), lambda c: np.interp(c, grid, cumulative / cumulative[-1]))
    assert result.pvalue > 1e-4


def test_score_of_the_asymmetry_in_closed_form_and_information_by_quadrature():
    toy = build_toy("forward_backward")
    theta = torch.tensor([0.3, 1.0, -1.0], dtype=torch.float64)
    nodes, weights = torch.from_numpy(C), torch.from_numpy(WEIGHT)
    score = toy.score(nodes.unsqueeze(-1), theta)
    dilution = 1 - 2 * 0.05 / (0.05 + 0.45 * math.exp(-0.5)) * 0.5
    slope = dilution * nodes / (0.375 * (1 + nodes**2) + 0.3 * dilution * nodes)
    assert torch.allclose(score[:, 0], slope, rtol=1e-10)
    density = toy.log_prob(nodes.unsqueeze(-1), theta).exp() * weights
    np.testing.assert_allclose(density @ score, 0, atol=1e-9)
    events = toy.sample(theta.expand(40_000, -1), generator=generator(4))
    squares = toy.score(events.x, theta) ** 2
    errors = squares.std(0) / math.sqrt(len(squares))
    assert ((squares.mean(0) - density @ score**2).abs() < 4 * errors).all()


def test_gradients_are_finite_over_the_box_and_outside_the_support():
    toy = build_toy("forward_backward")
    x = torch.tensor([[-1.0], [0.0], [1.0], [1.1], [-5.0]], dtype=torch.float64)
    for theta in CORNERS:
        point = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(x, point).isfinite().tolist() == [True, True, True, False, False]
        assert toy.score(x, point).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"asymmetry": 0.8}, "asymmetry"),
        ({"misidentified": 0.5}, "misidentified"),
        ({"edge": 0.99}, "edge"),
        ({"turn_off": 0.0}, "turn_off"),
    ],
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=f"forward_backward.*{words}"):
        build_toy("forward_backward", **options)
