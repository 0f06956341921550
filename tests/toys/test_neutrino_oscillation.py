"""neutrino_oscillation against numpy in true energy: density, yield, events, score, information, one maximum."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import constants, integrate, stats

from touchneedle.conf.errors import InputError
from touchneedle.toys import neutrino_oscillation as no
from touchneedle.toys.base import build_toy

CORNERS = list(itertools.product((1.8, 3.6), (-14.0, 14.0), (-14.0, 14.0)))
POINTS = [(2.5, 0.0, 0.0), (1.8, 2.0, -3.0), (3.5, -5.0, 4.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def panels(low, high, n):
    """Nodes and weights of n Gauss-Legendre panels of 20 nodes each."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = (high - low) / n / 2
    centres = low + half * (2 * np.arange(n) + 1)
    return (centres[:, None] + half * nodes).ravel(), np.tile(half * weights, n)


ENERGY, WEIGHT = panels(0.25, 10, 200)


def second(energy, theta, baseline=735.0, mixing=0.9):
    """Expected events per GeV, up to a constant: 1 - mixing / 2 (1 - cos) at the true energy."""
    scale = math.exp(0.01 * theta[1])
    true = energy / scale
    survival = 1 - mixing / 2 * (1 - np.cos(2 * 1.26693e-3 * baseline * theta[0] / true))
    return (true / 1.5) ** (1 + 0.05 * theta[2]) * np.exp(-true / 1.5) * survival / scale


def test_phase_is_that_of_nature():
    """1e-3 eV^2 km / (4 hbar c GeV) from the constants of nature."""
    phase = 1e-3 * 1e3 / (4 * constants.hbar * constants.c / constants.e * 1e9)
    assert phase == pytest.approx(no.PHASE, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"baseline": 1300.0, "mixing": 0.99}])
@pytest.mark.parametrize("theta", [*POINTS, *CORNERS])
def test_log_prob_matches_numpy(theta, options):
    toy = build_toy("neutrino_oscillation", **options)
    energy = np.concatenate([np.linspace(0.25, 1, 60), np.linspace(1, 10, 40)])
    expected = np.log(second(energy, theta, **options)) - math.log(second(ENERGY, theta, **options) @ WEIGHT)
    found = toy.log_prob(torch.from_numpy(energy).unsqueeze(-1), torch.tensor(theta, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_normalisation_matches_mpmath():
    toy = build_toy("neutrino_oscillation")

    def density(e):
        true = e * mpmath.exp(mpmath.mpf("0.05"))
        swing = mpmath.sin(mpmath.mpf("1.26693e-3") * 735 * mpmath.mpf("3.5") / true) ** 2
        return (true / 1.5) ** mpmath.mpf("1.2") * mpmath.exp(-true / 1.5) * (1 - mpmath.mpf("0.9") * swing)

    expected = mpmath.log(density(mpmath.mpf(2)) / mpmath.quad(density, [0.25, 0.3, 0.4, 0.6, 1, 2, 4, 10]))
    found = toy.log_prob(torch.tensor([[2.0]]), torch.tensor(POINTS[2], dtype=torch.float64))
    assert found.item() == pytest.approx(float(expected), abs=1e-11)


def test_integrates_to_one_over_the_box_and_yield_follows():
    toy = build_toy("neutrino_oscillation", fit_events=500)
    thetas = torch.tensor([*POINTS, *CORNERS], dtype=torch.float64)
    mass = [toy.log_prob(torch.from_numpy(ENERGY).unsqueeze(-1), theta).exp() @ torch.from_numpy(WEIGHT) for theta in thetas]
    np.testing.assert_allclose(mass, 1, atol=1e-10)
    norms = np.array([second(ENERGY, theta) @ WEIGHT for theta in thetas.tolist()])
    np.testing.assert_allclose(toy.expected_events(thetas), 500 * norms / norms[0], rtol=1e-10)


@pytest.mark.parametrize("theta", [*POINTS, CORNERS[0], CORNERS[-1]])
def test_events_follow_the_cumulative_distribution(theta):
    toy = build_toy("neutrino_oscillation")
    events = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(20_000, -1), generator=generator(2))
    grid = np.linspace(0.25, 10, 40_001)
    cumulative = integrate.cumulative_simpson(second(grid, theta), x=grid, initial=0)
    assert stats.kstest(events.x[:, 0].numpy(), lambda e: np.interp(e, grid, cumulative / cumulative[-1])).pvalue > 1e-4


def test_score_matches_differences_and_information_matches_quadrature():
    toy = build_toy("neutrino_oscillation")
    theta = torch.tensor([2.7, 1.0, -1.0], dtype=torch.float64)
    energy = torch.from_numpy(ENERGY).unsqueeze(-1)
    score = toy.score(energy, theta)
    for column in range(3):
        step = np.zeros(3)
        step[column] = 1e-5
        up, down = (second(ENERGY, theta.numpy() + sign * step) for sign in (1, -1))
        slope = (np.log(up / (up @ WEIGHT)) - np.log(down / (down @ WEIGHT))) / 2e-5
        np.testing.assert_allclose(score[:, column], slope, rtol=1e-6, atol=1e-7)
    density = toy.log_prob(energy, theta).exp() * torch.from_numpy(WEIGHT)
    np.testing.assert_allclose(density @ score, 0, atol=1e-9)
    squares = toy.score(toy.sample(theta.expand(40_000, -1), generator=generator(4)).x, theta) ** 2
    errors = squares.std(0) / math.sqrt(len(squares))
    assert ((squares.mean(0) - density @ score**2).abs() < 4 * errors).all()


@pytest.mark.parametrize("truth", [1.8, 2.5, 3.6])
def test_the_expected_likelihood_has_one_maximum_in_the_range(truth):
    """What makes the toy regular: E_p[log L] rises to the truth and falls beyond it, at nominal nuisances."""
    toy = build_toy("neutrino_oscillation")
    theta = torch.zeros(91, 3, dtype=torch.float64)
    theta[:, 0] = torch.linspace(1.8, 3.6, 91, dtype=torch.float64)
    log_prob = torch.stack([toy.log_prob(torch.from_numpy(ENERGY).unsqueeze(-1), point) for point in theta])
    rate = toy.expected_events(theta)
    true = int((theta[:, 0] - truth).abs().argmin())
    expected = rate[true] * (log_prob @ (log_prob[true].exp() * torch.from_numpy(WEIGHT)) + rate.log()) - rate
    assert int(expected.argmax()) == true
    assert (expected.diff()[:true] > 0).all()
    assert (expected.diff()[true:] < 0).all()


def test_gradients_are_finite_over_the_box_and_outside_the_support():
    toy = build_toy("neutrino_oscillation")
    x = torch.tensor([[0.25], [1.0], [10.0], [0.2], [-3.0], [1e9]], dtype=torch.float64)
    for theta in CORNERS:
        point = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(x, point).isfinite().tolist() == [True, True, True, False, False, False]
        assert toy.score(x, point).isfinite().all()


def test_many_points_at_once_are_the_points_one_by_one():
    toy = build_toy("neutrino_oscillation")
    theta = toy.spec.parameters.sample_prior(20, generator()).repeat(2, 1)
    x = toy.sample(theta, generator=generator(1)).x
    singly = torch.cat([toy.log_prob(x[i : i + 1], theta[i]) for i in range(len(x))])
    assert torch.allclose(toy.log_prob(x, theta), singly, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low": 0.0}, "low"),
        ({"high": 0.1}, "low < high"),
        ({"splitting": 9.0}, "splitting"),
        ({"mixing": 1.0}, "mixing"),
        ({"power": 0.5}, "power"),
    ],
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=f"neutrino_oscillation.*{words}"):
        build_toy("neutrino_oscillation", **options)
