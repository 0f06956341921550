"""breit_wigner_interference against complex amplitudes in numpy: density, quadratic yield, events, score, information."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

CORNERS = list(itertools.product((0.0, 1.5), (-14.0, 14.0), (-14.0, 14.0)))
POINTS = [(0.5, 0.0, 0.0), (0.1, 2.0, -3.0), (1.2, -5.0, 4.0)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def panels(low, high, n):
    """Nodes and weights of n Gauss-Legendre panels of 20 nodes each."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = (high - low) / n / 2
    centres = low + half * (2 * np.arange(n) + 1)
    return (centres[:, None] + half * nodes).ravel(), np.tile(half * weights, n)


MASS, WEIGHT = panels(300, 700, 500)


def amplitudes(mass, theta, width=25.0):
    """Continuum, and resonance at coupling 1."""
    gamma = width * math.exp(0.1 * theta[2])
    resonance = 500 * gamma / (mass**2 - 500**2 + 500j * gamma)
    return np.exp(-0.003 * (mass - 500)), np.exp(1j * (0.5 + 0.035 * theta[1])) * resonance


def second(mass, theta, **options):
    continuum, resonance = amplitudes(mass, theta, **options)
    return abs(continuum + theta[0] * resonance) ** 2


@pytest.mark.parametrize("options", [{}, {"width": 5.0}, {"width": 80.0}])
@pytest.mark.parametrize("theta", [*POINTS, *CORNERS])
def test_log_prob_matches_numpy_on_a_fine_grid_of_panels(theta, options):
    """At its narrowest (1.2 GeV) the peak still spans a panel."""
    toy = build_toy("breit_wigner_interference", **options)
    mass = np.linspace(300, 700, 81)
    expected = np.log(second(mass, theta, **options)) - math.log(second(MASS, theta, **options) @ WEIGHT)
    found = toy.log_prob(torch.from_numpy(mass).unsqueeze(-1), torch.tensor(theta, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_normalisation_matches_mpmath():
    toy = build_toy("breit_wigner_interference")
    theta = POINTS[1]
    gamma, phi = 25 * mpmath.exp(-0.3), mpmath.mpf(0.5) + mpmath.mpf(0.07)

    def density(m):
        return abs(mpmath.exp(-0.003 * (m - 500)) + 0.1 * mpmath.expj(phi) * 500 * gamma / (m**2 - 500**2 + 500j * gamma)) ** 2

    expected = mpmath.log(density(mpmath.mpf(480)) / mpmath.quad(density, [300, 450, 490, 500, 510, 550, 700]))
    found = toy.log_prob(torch.tensor([[480.0]]), torch.tensor(theta, dtype=torch.float64))
    assert found.item() == pytest.approx(float(expected), abs=1e-11)


def test_integrates_to_one_over_the_box():
    toy = build_toy("breit_wigner_interference")
    for theta in [*POINTS, *CORNERS]:
        density = toy.log_prob(torch.from_numpy(MASS).unsqueeze(-1), torch.tensor(theta, dtype=torch.float64)).exp()
        assert (density @ torch.from_numpy(WEIGHT)).item() == pytest.approx(1, abs=1e-10)


def test_yield_is_the_quadratic_form_in_the_coupling():
    """I_0, I_1 and I_2 by adaptive quadrature."""
    toy = build_toy("breit_wigner_interference")
    nominal = None
    for theta in POINTS:

        def term(function, theta=theta):
            return integrate.quad(lambda m: function(*amplitudes(m, theta)), 300, 700, points=[450, 500, 550], epsrel=1e-12, limit=200)[0]

        i0, i1, i2 = term(lambda b, _: b**2), term(lambda b, r: 2 * b * r.real), term(lambda _, r: abs(r) ** 2)
        norm = i0 + theta[0] * i1 + theta[0] ** 2 * i2
        nominal = norm if nominal is None else nominal
        found = toy.expected_events(torch.tensor([theta], dtype=torch.float64)).item()
        assert found == pytest.approx(1_000 * norm / nominal, rel=1e-10)


def test_a_dip_stands_beside_the_peak():
    toy = build_toy("breit_wigner_interference")
    theta = torch.tensor([[0.0, 0, 0], [0.5, 0, 0]], dtype=torch.float64)
    mass = torch.tensor([[460.0], [505.0]], dtype=torch.float64)
    density = torch.stack([toy.log_prob(mass, point).exp() * toy.expected_events(point.unsqueeze(0)) for point in theta])
    assert density[1, 0] < 0.9 * density[0, 0]
    assert density[1, 1] > 1.3 * density[0, 1]


@pytest.mark.parametrize("theta", [*POINTS, CORNERS[-2]])
def test_events_follow_the_cumulative_distribution(theta):
    toy = build_toy("breit_wigner_interference")
    events = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(20_000, -1), generator=generator(2))
    grid = np.linspace(300, 700, 40_001)
    cumulative = integrate.cumulative_simpson(second(grid, theta), x=grid, initial=0)
    assert stats.kstest(events.x[:, 0].numpy(), lambda m: np.interp(m, grid, cumulative / cumulative[-1])).pvalue > 1e-4


def test_score_matches_differences_and_information_matches_quadrature():
    toy = build_toy("breit_wigner_interference")
    theta = torch.tensor([0.6, 1.0, -1.0], dtype=torch.float64)
    score = toy.score(torch.from_numpy(MASS).unsqueeze(-1), theta)
    for column in range(3):
        step = np.zeros(3)
        step[column] = 1e-5
        up, down = (second(MASS, theta.numpy() + sign * step) for sign in (1, -1))
        slope = (np.log(up / (up @ WEIGHT)) - np.log(down / (down @ WEIGHT))) / 2e-5
        np.testing.assert_allclose(score[:, column], slope, rtol=1e-6, atol=1e-8)
    density = toy.log_prob(torch.from_numpy(MASS).unsqueeze(-1), theta).exp() * torch.from_numpy(WEIGHT)
    np.testing.assert_allclose(density @ score, 0, atol=1e-9)
    squares = toy.score(toy.sample(theta.expand(40_000, -1), generator=generator(4)).x, theta) ** 2
    errors = squares.std(0) / math.sqrt(len(squares))
    assert ((squares.mean(0) - density @ score**2).abs() < 4 * errors).all()


def test_gradients_are_finite_over_the_box_and_outside_the_support():
    toy = build_toy("breit_wigner_interference")
    x = torch.tensor([[300.0], [500.0], [700.0], [299.0], [1e9]], dtype=torch.float64)
    for theta in CORNERS:
        point = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(x, point).isfinite().tolist() == [True, True, True, False, False]
        assert toy.score(x, point).isfinite().all()


def test_many_points_at_once_are_the_points_one_by_one():
    toy = build_toy("breit_wigner_interference")
    theta = toy.spec.parameters.sample_prior(30, generator()).repeat(3, 1)
    x = toy.sample(theta, generator=generator(1)).x
    singly = torch.cat([toy.log_prob(x[i : i + 1], theta[i]) for i in range(len(x))])
    assert torch.allclose(toy.log_prob(x, theta), singly, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.0}, "width"),
        ({"mass": 800.0}, "mass"),
        ({"coupling": 2.0}, "coupling"),
        ({"angle": 0.1}, "angle"),
        ({"slope": -1.0}, "slope"),
    ],
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=f"breit_wigner_interference.*{words}"):
        build_toy("breit_wigner_interference", **options)
