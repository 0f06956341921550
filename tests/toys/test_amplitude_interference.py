"""The interference toy: complex amplitudes in numpy, signed rates, and its two maxima in mu."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from touchneedle.conf.errors import InputError
from touchneedle.inference.rate_fit import fit_rate_model
from touchneedle.toys.base import build_toy

N = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def differential_yield(x, mu, shift):
    """Squared modulus of a sum of complex amplitudes, plus the other background."""
    signal = np.sqrt(stats.multivariate_normal.pdf(x, np.zeros(3), np.eye(3)))
    background = np.exp(1j * math.acos(-0.6)) * np.sqrt(1.4 * stats.multivariate_normal.pdf(x, np.full(3, 0.2), 1.25 * np.eye(3)))
    other = 0.5 * stats.multivariate_normal.pdf(x, np.full(3, 1.5 + 0.1 * shift), 2.25 * np.eye(3))
    return abs(math.sqrt(mu) * signal + background) ** 2 + other


@cache
def overlap():
    one, _ = quad(lambda t: math.sqrt(stats.norm.pdf(t) * stats.norm.pdf(t, 0.2, math.sqrt(1.25))), -12, 12, epsabs=1e-13)
    return one**3


def total_yield(mu):
    return mu + 1.4 + 0.5 - 1.2 * math.sqrt(1.4 * mu) * overlap()


def grid(n=60):
    nodes, weights = np.polynomial.legendre.leggauss(n)
    x, weight = torch.from_numpy(1.5 + 14 * nodes), torch.from_numpy(14 * weights)
    return torch.cartesian_prod(x, x, x), torch.cartesian_prod(weight, weight, weight).prod(-1)


def test_log_prob_matches_complex_amplitudes():
    toy = build_toy("amplitude_interference")
    theta = toy.spec.parameters.sample_prior(25, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[:10] *= 5
    expected = [math.log(differential_yield(a, *t) / total_yield(t[0])) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_rates_are_signed_and_add_up():
    toy = build_toy("amplitude_interference", fit_events=500)
    mu = torch.tensor([[0.01, 3.0], [1.0, 0.0], [4.0, -14.0]], dtype=torch.float64)
    expected = [500 * total_yield(m) / total_yield(1.0) for m in mu[:, 0].tolist()]
    np.testing.assert_allclose(toy.expected_events(mu), expected, rtol=1e-10)
    assert (toy.rates(mu) > 0).tolist() == [[True, False, True, True]] * 3
    model = fit_rate_model(toy.spec.parameters, toy.rates)
    assert [[term.kind for term in process.terms] for process in model.processes] == [["mu"], ["sqrt(mu)"], [], []]
    assert model.worst_deviation < 1e-12


def test_density_and_processes_integrate_to_one_over_the_box():
    toy = build_toy("amplitude_interference")
    x, weight = grid()
    for theta in itertools.product([0.01, 1.0, 4.0], [-14.0, 14.0]):
        theta = torch.tensor(theta, dtype=torch.float64)
        assert (toy.log_prob(x, theta).exp() @ weight).item() == pytest.approx(1, abs=1e-8)
    np.testing.assert_allclose(weight @ toy.log_prob_process(x, theta).exp(), np.ones(4), atol=1e-8)


@pytest.mark.parametrize("point", [[0.01, 2.0], [1.0, 0.0], [4.0, -5.0]])
def test_moments_of_the_events(point):
    """Every process is a Gaussian, so that the moments are those of a mixture with signed weights."""
    toy = build_toy("amplitude_interference")
    theta = torch.tensor(point, dtype=torch.float64)
    x = toy.sample(theta.expand(N, -1), generator=generator(2)).x.double().numpy()
    share = (toy.rates(theta[None])[0] / toy.expected_events(theta[None])).numpy()
    precision = np.array([1, 0.5 * (1 + 1 / 1.25), 1 / 1.25, 1 / 2.25])
    means = np.array([0, 0.5 * (0.2 / 1.25) / precision[1], 0.2, 1.5 + 0.1 * point[1]])
    for values, expected in [(x, share @ means), (x**2, share @ (means**2 + 1 / precision)), (x * np.roll(x, 1, 1), share @ means**2)]:
        assert (abs(values.mean(0) - expected) < 4.5 * values.std(0) / math.sqrt(N)).all()


def test_score_in_closed_form_and_information():
    """d log p / d mu = (|A_S|^2 + Re(A_S A_B*) / sqrt mu) / D less its mean."""
    toy = build_toy("amplitude_interference")
    theta = torch.tensor([0.4, 1.0], dtype=torch.float64)
    x, weight = grid(40)
    process = toy.log_prob_process(x, theta).exp() * toy.rates(theta[None])
    slope = torch.tensor([1 / 0.4, 0.5 / 0.4, 0, 0], dtype=torch.float64)
    total = toy.rates(theta[None])[0]
    expected = (process @ slope) / process.sum(-1) - (total @ slope) / total.sum()
    score = toy.score(x, theta)
    assert torch.allclose(score[:, 0], expected, rtol=1e-8, atol=1e-8)
    information = score.T @ (score * (toy.log_prob(x, theta).exp() * weight).unsqueeze(-1))
    drawn = toy.score(toy.sample(theta.expand(N, -1), generator=generator(4)).x, theta)
    products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
    assert ((products.mean(0) - information).abs() < 4.5 * products.std(0) / math.sqrt(N)).all()


def test_expected_likelihood_has_two_maxima():
    """One at the truth, and one close to the mu of equal rate, sqrt(mu') = -interference - 1."""
    toy = build_toy("amplitude_interference")
    x, weight = grid(20)
    n = toy.fit_events
    share = toy.log_prob(x, toy.spec.parameters.nominal).exp() * weight
    mu = torch.linspace(0.025, 1.5, 60, dtype=torch.float64)
    theta = torch.stack([mu, torch.zeros_like(mu)], -1)
    shape = torch.stack([share @ toy.log_ratio(x, t) for t in theta])
    rate = toy.expected_events(theta)
    curve = n * shape + n * torch.log(rate / n) - (rate - n)
    peaks = mu[1:-1][(curve[1:-1] > curve[:-2]) & (curve[1:-1] > curve[2:])]
    assert peaks.tolist() == pytest.approx([(toy.interference + 1) ** 2, 1.0], abs=0.1)
    assert not toy.regular


def test_far_tails_and_the_edge_of_mu():
    toy = build_toy("amplitude_interference")
    x = torch.tensor([[1e4, 0.0, -1e4], [-300.0, 300.0, 0.0], [0.0, 0.0, 0.0]])
    for theta in ([0.01, 14.0], [4.0, -14.0]):
        theta = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(x, theta).isfinite().all()
        assert toy.score(x, theta).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"), [({"cos_phase": -1.0}, "cos_phase"), ({"variance": 0.0}, "variance"), ({"other": 0.0}, "other")]
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("amplitude_interference", **options)
