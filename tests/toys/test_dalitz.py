"""The Dalitz toy: complex amplitudes in numpy, four-vectors for the boundary, two-dimensional quadrature for the norm."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 20_000
M, M1, M2, M3 = 1.865, 0.494, 0.140, 0.140


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def squared_amplitude(m12, m13, coupling, mass_shift, width_shift):
    mass, width = 0.892 * (1 + 0.002 * mass_shift), 0.05 * math.exp(0.02 * width_shift)
    first = mass * width / (mass**2 - m12 - 1j * mass * width)
    second = 1.43 * 0.27 / (1.43**2 - m13 - 1j * 1.43 * 0.27)
    return abs(0.4 + first + (coupling + 0.5j) * second) ** 2


def momentum(parent, a, b):
    return np.sqrt(np.maximum((parent**2 - (a + b) ** 2) * (parent**2 - (a - b) ** 2), 0)) / (2 * parent)


def m13_squared(m12, cosine):
    """From four-vectors in the rest frame of 1 and 2, where particle 3 flies at an angle to particle 1."""
    mass = np.sqrt(m12)
    p1, p3 = momentum(mass, M1, M2), momentum(M, mass, M3) * M / mass
    e1, e3 = np.hypot(M1, p1), np.hypot(M3, p3)
    return (e1 + e3) ** 2 - (p1**2 + p3**2 + 2 * p1 * p3 * cosine)


def grid(n=400, k=60):
    """m12^2, m13^2 and weights: m12^2 by a sine map that softens the ends, m13^2 linear in the helicity cosine."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    cosine, cosine_weights = np.polynomial.legendre.leggauss(k)
    low, high = (M1 + M2) ** 2, (M - M3) ** 2
    m12 = 0.5 * (low + high) + 0.5 * (high - low) * np.sin(0.5 * math.pi * nodes)
    weights = weights * 0.25 * math.pi * (high - low) * np.cos(0.5 * math.pi * nodes)
    length = m13_squared(m12, -1) - m13_squared(m12, 1)
    m13 = m13_squared(m12[:, None], cosine)
    weight = weights[:, None] * 0.5 * length[:, None] * cosine_weights
    return np.broadcast_to(m12[:, None], m13.shape).ravel(), m13.ravel(), weight.ravel()


def test_log_prob_matches_complex_amplitudes_over_the_box():
    """The norm by two-dimensional quadrature, at prior draws and at all corners."""
    toy = build_toy("dalitz")
    m12, m13, weight = grid()
    corners = torch.tensor(list(itertools.product([-2.0, 2.0], [-14.0, 14.0], [-14.0, 14.0])), dtype=torch.float64)
    theta = torch.cat([toy.spec.parameters.sample_prior(12, generator()), corners])
    x = toy.sample(theta, generator=generator(1)).x.double()
    expected = [
        math.log(squared_amplitude(*row, *t) / (squared_amplitude(m12, m13, *t) @ weight))
        for row, t in zip(x.numpy(), theta.numpy(), strict=True)
    ]
    np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_integrates_to_one_inside_and_vanishes_outside():
    toy = build_toy("dalitz", width=0.1, imaginary=-1.0, constant=0.0)
    m12, m13, weight = grid()
    theta = torch.tensor([-0.5, 3.0, -2.0], dtype=torch.float64)
    x = torch.from_numpy(np.stack([m12, m13], -1))
    assert (toy.log_prob(x, theta).exp() @ torch.from_numpy(weight)).item() == pytest.approx(1, abs=1e-9)
    rng = np.random.default_rng(0)
    m12 = rng.uniform((M1 + M2) ** 2, (M - M3) ** 2, 500)
    for cosine, inside in [(1 - 1e-6, True), (-1 + 1e-6, True), (1 + 1e-6, False), (-1 - 1e-6, False)]:
        x = torch.from_numpy(np.stack([m12, m13_squared(m12, cosine)], -1))
        assert (toy.log_prob(x, theta).isfinite() == inside).all()
    outside = torch.tensor([[0.4, 1.0], [3.0, 0.5], [-1.0, 0.0], [1e9, 1e9]], dtype=torch.float64)
    assert (toy.log_prob(outside, theta) == -math.inf).all()
    assert toy.score(outside, theta).isfinite().all()


@pytest.mark.parametrize("point", [[1.0, 0.0, 0.0], [-2.0, 10.0, -10.0]])
def test_events_follow_the_amplitudes(point):
    """Kolmogorov-Smirnov test in m12^2, means of functions of both, and no event outside the boundary."""
    toy = build_toy("dalitz")
    theta = torch.tensor(point, dtype=torch.float64)
    x = toy.sample(theta.expand(N, -1), generator=generator(3)).x
    assert toy.log_prob(x, theta).isfinite().all()
    m12, m13, weight = grid()
    density = squared_amplitude(m12, m13, *point) * weight
    density = density / density.sum()
    strips = density.reshape(400, 60).sum(1)
    a, b = x.double().numpy().T
    assert stats.kstest(a, lambda s: np.interp(s, m12[::60], strips.cumsum() - strips / 2)).pvalue > 1e-4
    for function in (lambda s, t: t, lambda s, t: s * t, lambda s, t: np.cos(5 * s + 3 * t), lambda s, t: np.cos(4 * t)):
        values = function(a, b)
        assert abs(values.mean() - function(m12, m13) @ density) < 4.5 * values.std() / math.sqrt(N)


def test_score_in_closed_form_and_information():
    """d log p / d coupling = 2 Re(A* BW_2) / |A|^2 less its mean."""
    toy = build_toy("dalitz")
    theta = torch.tensor([0.7, 1.0, -1.0], dtype=torch.float64)
    m12, m13, weight = grid()
    mass, width = 0.892 * 1.002, 0.05 * math.exp(-0.02)
    second = 1.43 * 0.27 / (1.43**2 - m13 - 1j * 1.43 * 0.27)
    total = 0.4 + mass * width / (mass**2 - m12 - 1j * mass * width) + (0.7 + 0.5j) * second
    raw = 2 * (total.conj() * second).real / abs(total) ** 2
    density = abs(total) ** 2 * weight / (abs(total) ** 2 @ weight)
    score = toy.score(torch.from_numpy(np.stack([m12, m13], -1)), theta)
    np.testing.assert_allclose(score[:, 0], raw - raw @ density, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(density @ score.numpy(), 0, atol=1e-8)
    information = score.T @ (score * torch.from_numpy(density).unsqueeze(-1))
    drawn = toy.score(toy.sample(theta.expand(N, -1), generator=generator(4)).x, theta)
    products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
    assert ((products.mean(0) - information).abs() < 4.5 * products.std(0) / math.sqrt(N)).all()


def test_scores_of_the_nuisances_by_finite_differences():
    """Also where every event has a theta of its own, as in training."""
    toy = build_toy("dalitz")
    theta = toy.spec.parameters.sample_prior(30, generator(5))
    x = toy.sample(theta, generator=generator(6)).x
    score, step = toy.score(x, theta), 1e-5
    for column in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[column] = step
        slope = (toy.log_prob(x, theta + shift) - toy.log_prob(x, theta - shift)) / (2 * step)
        assert torch.allclose(score[:, column], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "words"), [({"width": 0.01}, "at least 0.05"), ({"other_mass": 0.0}, "other_mass"), ({"width": -1.0}, "width")]
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("dalitz", **options)
