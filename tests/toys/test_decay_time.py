"""decay_time against mpmath in 50 digits and direct convolution: density, events, latent truth, score, information."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

CORNERS = list(itertools.product((-1.0, 1.0), (-14.0, 14.0), (-14.0, 14.0)))
POINTS = [(0.3, 0.0, 0.0), (-0.7, 2.0, -3.0), (0.9, -5.0, 4.0)]
SLOW = {"lifetime": 1.5, "frequency": 0.5, "resolution": 1.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def constants(theta, resolution=0.045, **_):
    odds = 0.7 / 0.3 * math.exp(0.15 * theta[2])
    return theta[0] * odds / (1 + odds), resolution * math.exp(0.1 * theta[1])


def second(t, q, theta, lifetime=1.5, frequency=17.7, **options):
    """log p from exponentials of a real and a complex rate, each folded with the Gaussian, with mpmath's complex erfc."""
    amplitude, sigma = constants(theta, **options)
    with mpmath.workdps(60):
        t, sigma, gamma = mpmath.mpf(t), mpmath.mpf(sigma), 1 / mpmath.mpf(lifetime)

        def folded(k):
            return gamma / 2 * mpmath.exp((sigma * k) ** 2 / 2 - k * t) * mpmath.erfc((sigma * k - t / sigma) / mpmath.sqrt(2))

        sine = mpmath.im(folded(mpmath.mpc(gamma, -frequency)))
        return float(mpmath.log((folded(gamma) + q * amplitude * sine) / 2))


def numpy_density(t, q, theta, lifetime=1.5, frequency=17.7, **options):
    """The same density by Gauss-Legendre panels over the true decay time, for many t at once."""
    amplitude, sigma = constants(theta, **options)
    u, weight = panels(0, 25 * lifetime, 1_500)
    true = np.exp(-u / lifetime) / lifetime * (1 + q * amplitude * np.sin(frequency * u)) / 2 * weight
    return np.exp(-0.5 * ((t[:, None] - u) / sigma) ** 2) @ true / (sigma * math.sqrt(2 * math.pi))


def panels(low, high, n):
    """Nodes and weights of n Gauss-Legendre panels of 20 nodes each."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = (high - low) / n / 2
    centres = low + half * (2 * np.arange(n) + 1)
    return (centres[:, None] + half * nodes).ravel(), np.tile(half * weights, n)


def plane(theta, resolution=0.045, **_):
    """Times and weights that cover the turn-on and the tail, for both tags: x (2 m, 2) and weights (2 m,)."""
    _, sigma = constants(theta, resolution)
    t, weight = (np.concatenate(part) for part in zip(panels(-9 * sigma, 9 * sigma, 60), panels(9 * sigma, 60, 600), strict=True))
    x = np.concatenate([np.stack([t, np.full_like(t, q)], -1) for q in (-1, 1)])
    return torch.from_numpy(x), torch.from_numpy(np.tile(weight, 2))


@pytest.mark.parametrize("options", [{}, SLOW])
@pytest.mark.parametrize("theta", [*POINTS, *CORNERS])
def test_log_prob_matches_mpmath_from_far_left_to_far_right(theta, options):
    toy = build_toy("decay_time", **options)
    _, sigma = constants(theta, **options)
    pulls = [-30.0, -5.0, -1.0, 0.0, sigma / 1.5, 1.0, 4.0, 30.0]
    x = [(pull * sigma, q) for pull in pulls for q in (-1.0, 1.0)] + [(40.0, 1.0), (1.234, -1.0)]
    expected = [second(t, q, theta, **options) for t, q in x]
    found = toy.log_prob(torch.tensor(x, dtype=torch.float64), torch.tensor(theta, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("theta", POINTS)
def test_log_prob_is_the_convolution(theta):
    toy = build_toy("decay_time")
    t = np.linspace(-0.1, 6.0, 40)
    for q in (-1.0, 1.0):
        found = toy.log_prob(torch.from_numpy(np.stack([t, np.full_like(t, q)], -1)), torch.tensor(theta, dtype=torch.float64))
        np.testing.assert_allclose(found, np.log(numpy_density(t, q, theta)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, SLOW])
def test_integrates_and_sums_to_one_over_the_box(options):
    toy = build_toy("decay_time", **options)
    for theta in [*POINTS, *CORNERS]:
        x, weight = plane(theta, **options)
        density = toy.log_prob(x, torch.tensor(theta, dtype=torch.float64)).exp()
        assert (density @ weight).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("theta", POINTS)
def test_events_follow_the_cumulative_distribution_of_each_tag(theta):
    toy = build_toy("decay_time")
    events = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(20_000, -1), generator=generator(2))
    time, tag = events.x.double().numpy().T
    amplitude, sigma = constants(theta)
    grid = np.linspace(-8 * sigma, 25, 60_001)
    for q in (-1.0, 1.0):
        x = torch.from_numpy(np.stack([grid, np.full_like(grid, q)], -1))
        cumulative = integrate.cumulative_simpson(toy.log_prob(x, torch.tensor(theta)).exp().numpy(), x=grid, initial=0)
        share = 0.5 + 0.5 * q * amplitude * 17.7 / 1.5 / (1 / 1.5**2 + 17.7**2)
        assert cumulative[-1] == pytest.approx(share, abs=1e-6)
        assert abs((tag == q).mean() - share) < 4 * math.sqrt(0.25 / 20_000)
        assert stats.kstest(time[tag == q], lambda t, c=cumulative: np.interp(t, grid, c / c[-1])).pvalue > 1e-4
    assert abs(time.mean() - 1.5) < 4 * math.sqrt((1.5**2 + sigma**2) / 20_000)


def test_score_in_closed_form_against_differences_and_information_by_quadrature():
    toy = build_toy("decay_time")
    theta = torch.tensor([0.4, 1.0, -1.0], dtype=torch.float64)
    x = [(-0.1, 1.0), (0.02, -1.0), (0.05, 1.0), (0.5, -1.0), (3.0, 1.0)]
    score = toy.score(torch.tensor(x, dtype=torch.float64), theta)
    for column in range(3):
        step = np.zeros(3)
        step[column] = 1e-6
        slope = [(second(t, q, theta.numpy() + step) - second(t, q, theta.numpy() - step)) / 2e-6 for t, q in x]
        np.testing.assert_allclose(score[:, column], slope, rtol=1e-7, atol=1e-8)
    points, weight = plane(theta.tolist())
    score = toy.score(points, theta)
    density = toy.log_prob(points, theta).exp() * weight
    np.testing.assert_allclose(density @ score, 0, atol=1e-9)
    squares = toy.score(toy.sample(theta.expand(40_000, -1), generator=generator(4)).x, theta) ** 2
    errors = squares.std(0) / math.sqrt(len(squares))
    assert ((squares.mean(0) - density @ score**2).abs() < 4 * errors).all()


def test_joint_score_regresses_to_the_score():
    """E[(joint score - score) g(x)] = 0 for any g, and E[exp(-joint log ratio)] = 1 (arXiv:1805.00020, eqs. 6 and 7)."""
    toy = build_toy("decay_time")
    theta = torch.tensor([0.6, -0.5, 1.0], dtype=torch.float64)
    events = toy.sample(theta.expand(40_000, -1), generator=generator(5))
    score = toy.score(events.x, theta)
    time, tag = events.x.double().T
    for g in (torch.ones_like(time), tag * torch.sin(17.7 * time), torch.exp(-(time**2) / 0.01), score[:, 1]):
        excess = (events.joint_score - score) * g.unsqueeze(-1)
        assert (excess.mean(0).abs() < 4.5 * excess.std(0) / 200).all()
    inverse = torch.exp(-events.joint_log_ratio)
    assert abs(inverse.mean() - 1) < 4 * inverse.std() / 200
    assert ((events.joint_score - score).std(0) > 0.05 * score.std(0)).all()
    at_nominal = toy.sample(toy.spec.parameters.nominal.expand(5, -1), generator=generator())
    assert at_nominal.joint_log_ratio.tolist() == [0.0] * 5


def test_other_tags_have_no_density_and_gradients_are_finite():
    toy = build_toy("decay_time")
    x = torch.tensor([[0.5, 0.0], [0.5, 2.0], [-50.0, 1.0], [1e4, -1.0]], dtype=torch.float64)
    assert toy.spec.features[1].kind == "discrete"
    for theta in CORNERS:
        point = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(x, point).isfinite().tolist() == [False, False, True, True]
        assert toy.score(x, point).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lifetime": 0.0}, "lifetime"),
        ({"asymmetry": 1.0}, "asymmetry"),
        ({"dilution": 1.0}, "dilution"),
        ({"frequency": -1.0}, "frequency"),
    ],
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=f"decay_time.*{words}"):
        build_toy("decay_time", **options)
