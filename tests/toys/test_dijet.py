"""The dijet toy against scipy: quadrature of the fit function, truncated normal, cumulative distributions."""

import itertools
import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.mixture import joint_truth

N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spectrum(x, jet_scale, slope):
    z = x * math.exp(-0.01 * jet_scale)
    return (1 - z) ** 9 * z ** -(5 + 0.1 * slope + 0.1 * math.log(z))


def background(x, jet_scale, slope):
    # The integral over pieces: quad alone loses digits under a fall of seven decades.
    edges = np.geomspace(0.08, 0.6, 7)
    norm = sum(quad(spectrum, *piece, (jet_scale, slope), epsabs=0, epsrel=1e-12)[0] for piece in itertools.pairwise(edges))
    return spectrum(x, jet_scale, slope) / norm


def signal(jet_scale):
    mean, width = 0.15 * math.exp(0.01 * jet_scale), 0.008 * math.exp(0.01 * jet_scale)
    return stats.truncnorm((0.08 - mean) / width, (0.6 - mean) / width, mean, width)


@cache
def grid(n=1_000):
    nodes, weights = np.polynomial.legendre.leggauss(n)
    log_x = math.log(0.08) + 0.5 * math.log(7.5) * (nodes + 1)
    return torch.from_numpy(np.exp(log_x)), torch.from_numpy(0.5 * math.log(7.5) * weights * np.exp(log_x))


def test_log_prob_matches_scipy():
    toy = build_toy("dijet")
    theta = toy.spec.parameters.sample_prior(25, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[:10, 0] = torch.linspace(0.08, 0.6, 10, dtype=torch.float64)
    for row, t, found in zip(x[:, 0].tolist(), theta.tolist(), toy.log_prob(x, theta).tolist(), strict=True):
        expected = t[0] * signal(t[1]).pdf(row) + (1 - t[0]) * background(row, *t[1:])
        assert found == pytest.approx(math.log(expected), abs=1e-10)


def test_normalisation_in_forty_digits_at_the_corners():
    toy = build_toy("dijet")
    x = torch.tensor([[0.3]], dtype=torch.float64)
    with mpmath.workdps(40):
        for jet_scale, slope in itertools.product([-14.0, 14.0], repeat=2):
            z = [edge * mpmath.exp(-mpmath.mpf("0.01") * jet_scale) for edge in (mpmath.mpf("0.08"), mpmath.mpf("0.6"), mpmath.mpf("0.3"))]

            def f(z, slope=slope):
                return (1 - z) ** 9 * z ** -(5 + slope / mpmath.mpf(10) + mpmath.log(z) / 10)

            expected = mpmath.log(f(z[2]) * mpmath.exp(-mpmath.mpf("0.01") * jet_scale) / mpmath.quad(f, [z[0], 0.15, 0.3, z[1]]))
            found = toy.log_prob(x, torch.tensor([0.0, jet_scale, slope], dtype=torch.float64)).item()
            assert found == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"p3": 0.0, "p2": 1.0, "p1": 0.1}, {"a": 0.03, "b": 0.5}])
def test_integrates_to_one_over_the_box(options):
    toy = build_toy("dijet", **options)
    x, weight = grid()
    for corner in [*itertools.product([0.0, 1.0], [-14.0, 14.0], [-14.0, 14.0]), (0.1, 0.0, 0.0)]:
        theta = torch.tensor(corner, dtype=torch.float64)
        np.testing.assert_allclose(weight @ toy.log_prob_process(x.unsqueeze(-1), theta).exp(), [1, 1], atol=1e-10)
        assert (toy.log_prob(x.unsqueeze(-1), theta).exp() @ weight).item() == pytest.approx(1, abs=1e-10)


def test_the_background_spans_seven_decades():
    toy = build_toy("dijet")
    edges = torch.tensor([[0.08], [0.6]], dtype=torch.float64)
    low, high = toy.log_prob_process(edges, toy.spec.parameters.nominal)[:, 1].tolist()
    assert math.exp(low - high) == pytest.approx(2.3e7, rel=0.05)


@pytest.mark.parametrize(
    ("options", "point"),
    [({}, [0.2, 0.0, 0.0]), ({}, [0.5, -5.0, 6.0]), ({"p3": 0.0, "p2": 1.0, "p1": 0.1}, [0.1, 0.0, 0.0]), ({"b": 0.5}, [0.0, 5.0, -14.0])],
)
def test_events_follow_the_integral_of_the_density(options, point):
    """Kolmogorov-Smirnov test, per process; the second spectrum is almost flat in ln x, the last one rises."""
    toy = build_toy("dijet", **options)
    theta = torch.tensor(point, dtype=torch.float64)
    events = toy.sample(theta.expand(N, -1), generator=generator(3))
    x, weight = grid()
    processes = toy.log_prob_process(x.unsqueeze(-1), theta).exp() * weight.unsqueeze(-1)
    cumulative = (processes.cumsum(0) - processes / 2).numpy()
    assert abs(events.label.double().mean().item() - (1 - point[0])) < 4 * math.sqrt(max(point[0] * (1 - point[0]), 1e-12) / N)
    for k in events.label.unique().tolist():
        mass = events.x[events.label == k, 0].numpy()
        assert stats.kstest(mass, lambda m, k=k: np.interp(m, x.numpy(), cumulative[:, k])).pvalue > 1e-4


def test_score_of_the_background_in_closed_form():
    """d ln p / d slope = -b (ln z - E[ln z])."""
    toy = build_toy("dijet")
    theta = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)
    x, weight = grid()
    log_x = x.log()
    density = toy.log_prob(x.unsqueeze(-1), theta).exp() * weight
    score = toy.score(x.unsqueeze(-1), theta)
    assert torch.allclose(score[:, 2], -0.1 * (log_x - density @ log_x), rtol=1e-9, atol=1e-9)
    drawn = toy.score(toy.sample(theta.expand(N, -1), generator=generator(5)).x, theta)
    products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
    information = score.T @ (score * density.unsqueeze(-1))
    assert ((products.mean(0) - information).abs() < 4.5 * products.std(0) / math.sqrt(N))[1:, 1:].all()


def test_events_carry_the_joint_truth_of_their_process():
    toy = build_toy("dijet")
    events = toy.sample(toy.spec.parameters.sample_prior(30, generator()), generator=generator(1))
    log_ratio, score = joint_truth(toy, events.x, events.label, events.theta)
    assert torch.equal(events.joint_log_ratio, log_ratio)
    assert torch.equal(events.joint_score, score)


def test_window_and_edges():
    toy = build_toy("dijet")
    theta = torch.tensor([0.3, 14.0, -14.0], dtype=torch.float64)
    x = torch.tensor([[0.0799], [0.6001], [-1.0], [0.08], [0.6]], dtype=torch.float64)
    value = toy.log_prob(x, theta)
    assert (value[:3] == -math.inf).all()
    assert value[3:].isfinite().all()
    assert toy.score(x, theta).isfinite().all()
    drawn = toy.sample(theta.expand(1_000, -1), generator=generator()).x
    assert toy.log_prob(drawn, theta).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p3": -0.1}, "p3"),
        ({"peak": 0.7}, "low < peak < high"),
        ({"a": 0.05}, "a = 0.05"),
        ({"fraction": 1.0}, "fraction"),
        ({"p1": 0.0}, "p1"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("dijet", **options)
