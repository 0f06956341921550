"""crystal_ball against scipy's own Crystal Ball, truncated to the window: density, events, score, information."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.mixture import joint_truth

CORNERS = list(itertools.product((0.0, 4.0), (-14.0, 14.0), (-14.0, 14.0)))
POINTS = [(1.0, 0.0, 0.0), (0.3, 2.0, -3.0), (3.0, -5.0, 4.0)]
OPTIONS = [{}, {"alpha": 0.5, "power": 1.2}, {"alpha": 3.0, "power": 40.0, "width": 4.0}]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def signal(theta, alpha=1.2, power=2.5, width=2.0):
    return stats.crystalball(alpha, power, 125 * (1 + 0.01 * theta[1]), width * math.exp(0.2 * theta[2]))


BACKGROUND = stats.truncexpon(b=1.8, loc=100, scale=1 / 0.03)


def second(mass, theta, **options):
    """Densities of (signal, background), and of their sum."""
    peak = signal(theta, **options)
    processes = np.stack([peak.pdf(mass) / (peak.cdf(160) - peak.cdf(100)), BACKGROUND.pdf(mass)], -1)
    yields = np.array([0.3 * theta[0], 0.7])
    return processes, processes @ yields / yields.sum()


def panels(low, high, n):
    """Nodes and weights of n Gauss-Legendre panels of 20 nodes each."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = (high - low) / n / 2
    centres = low + half * (2 * np.arange(n) + 1)
    return torch.from_numpy((centres[:, None] + half * nodes).ravel()), torch.from_numpy(np.tile(half * weights, n))


def panels_of(theta, width=2.0):
    """Panels that end at the kink, where the tail begins, for the default options."""
    kink = 125 * (1 + 0.01 * theta[1]) - 1.2 * width * math.exp(0.2 * theta[2])
    parts = [panels(100, kink, 200), panels(kink, 160, 200)] if kink > 100 else [panels(100, 160, 400)]
    return torch.cat([x for x, _ in parts]), torch.cat([w for _, w in parts])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("theta", [*POINTS, *CORNERS])
def test_log_prob_matches_scipy(theta, options):
    toy = build_toy("crystal_ball", **options)
    mass = np.linspace(100, 160, 61)
    processes, total = second(mass, theta, **options)
    point = torch.tensor(theta, dtype=torch.float64)
    found = toy.log_prob_process(torch.from_numpy(mass).unsqueeze(-1), point).numpy()
    visible = processes > 1e-290
    np.testing.assert_allclose(found[visible], np.log(processes[visible]), rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(toy.log_prob(torch.from_numpy(mass).unsqueeze(-1), point), np.log(total), rtol=1e-10, atol=1e-9)


def test_integrates_to_one_over_the_box():
    toy = build_toy("crystal_ball")
    for theta in [*POINTS, *CORNERS]:
        mass, weight = panels_of(theta)
        processes = toy.log_prob_process(mass.unsqueeze(-1), torch.tensor(theta, dtype=torch.float64)).exp()
        np.testing.assert_allclose(weight @ processes, [1, 1], atol=1e-9)


def test_yield_follows_the_strength():
    toy = build_toy("crystal_ball", fit_events=500, fraction=0.2)
    theta = torch.tensor([[0.0, 1, 1], [1, 0, 0], [3, -1, 0]], dtype=torch.float64)
    np.testing.assert_allclose(toy.rates(theta), [[0, 400], [100, 400], [300, 400]])
    assert toy.spec.processes == ("signal", "background")


@pytest.mark.parametrize("theta", [*POINTS, (2.0, -14.0, 14.0)])
def test_events_follow_the_cumulative_distributions(theta):
    toy = build_toy("crystal_ball")
    events = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(20_000, -1), generator=generator(2))
    peak, share = signal(theta), 0.3 * theta[0] / (0.3 * theta[0] + 0.7)
    mass = events.x[:, 0].double().numpy()
    is_signal = events.label.numpy() == 0
    assert abs(is_signal.mean() - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
    low, high = peak.cdf([100, 160])
    assert stats.kstest(mass[is_signal], lambda m: (peak.cdf(m) - low) / (high - low)).pvalue > 1e-4
    assert stats.kstest(mass[~is_signal], BACKGROUND.cdf).pvalue > 1e-4


def test_score_matches_closed_form_and_scipy_differences():
    toy = build_toy("crystal_ball")
    theta = (1.5, 0.7, -0.4)
    mass = np.linspace(101, 159, 59)
    score = toy.score(torch.from_numpy(mass).unsqueeze(-1), torch.tensor(theta, dtype=torch.float64))
    processes, total = second(mass, theta)
    strength = 0.3 * 0.7 / (0.45 + 0.7) ** 2 * (processes[:, 0] - processes[:, 1]) / total
    np.testing.assert_allclose(score[:, 0], strength, rtol=1e-9)
    for column in (1, 2):
        step = np.zeros(3)
        step[column] = 1e-5
        slope = (np.log(second(mass, theta + step)[1]) - np.log(second(mass, theta - step)[1])) / 2e-5
        np.testing.assert_allclose(score[:, column], slope, rtol=1e-5, atol=1e-7)


def test_information_of_events_is_that_of_quadrature():
    toy = build_toy("crystal_ball")
    theta = torch.tensor(POINTS[0], dtype=torch.float64)
    mass, weight = panels_of(POINTS[0])
    density = toy.log_prob(mass.unsqueeze(-1), theta).exp() * weight
    score = toy.score(mass.unsqueeze(-1), theta)
    np.testing.assert_allclose(density @ score, 0, atol=1e-9)
    events = toy.sample(theta.expand(40_000, -1), generator=generator(4))
    squares = toy.score(events.x, theta) ** 2
    errors = squares.std(0) / math.sqrt(len(squares))
    assert ((squares.mean(0) - density @ score**2).abs() < 4 * errors).all()


def test_joint_score_averages_over_the_process_to_the_score():
    """E[joint score | x] = score up to the yield's own part, for which both use the same fractions."""
    toy = build_toy("crystal_ball")
    theta = toy.spec.parameters.sample_prior(50, generator(1))
    x = toy.sample(theta, generator=generator(2)).x
    joint = toy.log_prob_process(x, theta).exp() * toy.rates(theta)
    posterior = joint / joint.sum(-1, keepdim=True)
    score = sum(posterior[:, k : k + 1] * joint_truth(toy, x, torch.full((50,), k), theta)[1] for k in (0, 1))
    assert torch.allclose(score, toy.score(x, theta), rtol=1e-9, atol=1e-9)


def test_gradients_are_finite_over_the_box_and_outside_the_support():
    toy = build_toy("crystal_ball")
    x = torch.tensor([[100.0], [125 - 2.4], [160.0], [99.0], [1e6]], dtype=torch.float64)
    for theta in [*CORNERS, POINTS[0]]:
        point = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(x, point).isfinite().tolist() == [True, True, True, False, False]
        assert toy.score(x, point).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"power": 1.0}, "power"),
        ({"alpha": 0.0}, "alpha"),
        ({"fraction": 1.0}, "fraction"),
        ({"peak": 101.0}, "peak"),
        ({"a": 0.03}, "window"),
    ],
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=f"crystal_ball.*{words}"):
        build_toy("crystal_ball", **options)
