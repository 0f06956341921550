"""The effective field theory toy: complex amplitudes in numpy, integrals by other rules, latent helicity."""

import itertools
import math

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.mixture import joint_truth

N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def amplitude(energy, cosine, azimuth, helicity, coefficients, scale, eta=0.5):
    """Complex helicity amplitude, written operator by operator."""
    sine = np.sin(np.arccos(cosine))
    shapes = [1.0, helicity * cosine, sine * np.cos(azimuth), helicity * sine * np.sin(azimuth), cosine**2]
    value = scale * (1 + helicity * cosine + 1j * eta)
    for i, c in enumerate(coefficients):
        value = value + c * shapes[i % 5] * (energy / math.sqrt(2) if i < 5 else energy**2 / math.sqrt(24))
    return value


def grid():
    """Energies to 80 (where exp(-E) E^4 is 1e-27), cosines and azimuths, with weights of dE dcos dphi."""
    e, we = np.polynomial.legendre.leggauss(60)
    c, wc = np.polynomial.legendre.leggauss(12)
    points = np.meshgrid(40 * (e + 1), c, 2 * math.pi * (np.arange(12) + 0.5) / 12 - math.pi, indexing="ij")
    weight = 40 * we[:, None, None] * wc[None, :, None] * np.full(12, 2 * math.pi / 12)
    return [p.ravel() for p in points], weight.ravel()


def expected_log_prob(x, theta, k):
    """log p(x, h) for both helicities, shape (2,)."""
    energy, scale = x[0] * math.exp(-0.02 * theta[k]), math.exp(0.03 * theta[k + 1])
    (e, c, f), weight = grid()
    sigma = sum((abs(amplitude(e, c, f, h, theta[:k], scale)) ** 2 * np.exp(-e)) @ weight / (4 * math.pi) for h in (-1, 1))
    squares = np.array([abs(amplitude(energy, x[1], x[2], h, theta[:k], scale)) ** 2 for h in (-1, 1)])
    return np.log(squares / sigma) - energy - 0.02 * theta[k] - math.log(4 * math.pi)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_log_prob_matches_complex_amplitudes(k):
    toy = build_toy("eft_quadratic", coefficients=k)
    theta = toy.spec.parameters.sample_prior(30, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[:3, 0] = torch.tensor([0.0, 50.0, 600.0])
    expected = [np.logaddexp(*expected_log_prob(a, t, k)) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [2, 10])
def test_integrates_to_one_over_the_box(k):
    toy = build_toy("eft_quadratic", coefficients=k)
    (e, c, f), weight = grid()
    corners = list(itertools.product(*([(-1.0, 1.0)] * k + [(-14.0, 14.0)] * 2)))
    for corner in [*corners[:: max(1, len(corners) // 8)], (1.0,) * k + (14.0, -14.0), (0.0,) * (k + 2)]:
        theta = torch.tensor(corner, dtype=torch.float64)
        stretch = math.exp(0.02 * corner[-2])
        x = torch.from_numpy(np.stack([stretch * e, c, f], -1))
        assert (toy.log_prob(x, theta).exp() @ torch.from_numpy(weight * stretch)).item() == pytest.approx(1, abs=1e-10)


def test_rates_are_the_integrals_of_the_squared_amplitudes():
    toy = build_toy("eft_quadratic", coefficients=7, fit_events=500)
    theta = toy.spec.parameters.sample_prior(3, generator())
    (e, c, f), weight = grid()
    for row, rates in zip(theta.numpy(), toy.rates(theta), strict=True):
        squares = [abs(amplitude(e, c, f, h, row[:7], math.exp(0.03 * row[-1]))) ** 2 for h in (-1, 1)]
        nominal = 2 * (1 + 1 / 3 + 0.25)
        expected = [500 * (np.exp(-e) * square) @ weight / (4 * math.pi) / nominal for square in squares]
        np.testing.assert_allclose(rates, expected, rtol=1e-10)
    assert toy.expected_events(toy.spec.parameters.nominal[None]).item() == pytest.approx(500, rel=1e-12)


@pytest.mark.parametrize(
    ("k", "point"), [(2, [0.5, -0.8, 3.0, -2.0]), (10, [0.3, -0.9, 0.7, 0.2, -0.5, 1.0, -1.0, 0.4, 0.1, -0.6, -4.0, 1.0])]
)
def test_moments_of_the_events(k, point):
    toy = build_toy("eft_quadratic", coefficients=k)
    theta = torch.tensor(point, dtype=torch.float64)
    events = toy.sample(theta.expand(N, -1), generator=generator(3))
    (e, c, f), weight = grid()
    stretch = math.exp(0.02 * point[-2])
    squares = [abs(amplitude(e, c, f, h, point[:k], math.exp(0.03 * point[-1]))) ** 2 * np.exp(-e) * weight for h in (-1, 1)]
    density = sum(squares) / sum(squares).sum()
    energy, cosine, azimuth = events.x.double().numpy().T
    found = [energy, np.sqrt(energy), cosine, cosine**2, np.cos(azimuth), np.sin(azimuth) * cosine, energy * cosine]
    e = stretch * e
    for values, truth in zip(found, [e, np.sqrt(e), c, c**2, np.cos(f), np.sin(f) * c, e * c], strict=True):
        assert abs(values.mean() - truth @ density) < 4 * values.std() / math.sqrt(N)
    aligned = (2 * events.label.numpy() - 1) * cosine
    truth = (c @ squares[1] - c @ squares[0]) / sum(squares).sum()
    assert abs(aligned.mean() - truth) < 4 * aligned.std() / math.sqrt(N)


def test_score_at_the_standard_model_in_closed_form():
    """grad log p = 2 sum_h a_0 O_i / sum_h |a_0|^2 less its mean: the optimal observables."""
    toy = build_toy("eft_quadratic")
    x = toy.sample(torch.zeros(50, 4, dtype=torch.float64), generator=generator()).x.double()
    energy, cosine, _ = x.T
    square = 2 * (1 + cosine**2 + 0.25)
    reference = 2 * (1 + 1 / 3 + 0.25)
    first = 2 * energy / math.sqrt(2) * 2 / square - 4 / math.sqrt(2) / reference
    second = 2 * energy / math.sqrt(2) * 2 * cosine**2 / square - 4 / 3 / math.sqrt(2) / reference
    expected = torch.stack([first, second, 0.02 * (energy - 1), torch.zeros_like(energy)], -1)
    assert torch.allclose(toy.score(x, toy.spec.parameters.nominal), expected, rtol=1e-10, atol=1e-10)


def test_information_from_scores_and_by_quadrature():
    toy = build_toy("eft_quadratic")
    theta = torch.tensor([0.2, -0.3, 0.5, 1.0], dtype=torch.float64)
    (e, c, f), weight = grid()
    x = torch.from_numpy(np.stack([e, c, f], -1))
    score = toy.score(x, theta)
    expected = score.T @ (score * (toy.log_prob(x, theta).exp() * torch.from_numpy(weight)).unsqueeze(-1))
    drawn = toy.score(toy.sample(theta.expand(N, -1), generator=generator(4)).x, theta)
    products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
    assert ((products.mean(0) - expected).abs() < 4.5 * products.std(0) / math.sqrt(N)).all()


def test_joint_truth_averages_over_the_helicity_to_the_marginal_truth():
    """E[joint score | x] = score, and E_theta_0[joint ratio | x] = ratio (arXiv:1805.00020, eqs. 6 and 7)."""
    toy = build_toy("eft_quadratic")
    events = toy.sample(toy.spec.parameters.sample_prior(30, generator()), generator=generator(1))
    x, theta, nominal = events.x, events.theta, toy.spec.parameters.nominal

    def posterior(at):
        joint = toy.log_prob_process(x, at).exp() * toy.rates(at.expand(30, -1))
        return joint / joint.sum(-1, keepdim=True)

    truths = [joint_truth(toy, x, torch.full((30,), h), theta) for h in (0, 1)]
    score = sum(posterior(theta)[:, h : h + 1] * truths[h][1] for h in (0, 1))
    ratio = sum(posterior(nominal)[:, h] * truths[h][0].exp() for h in (0, 1))
    assert torch.allclose(score, toy.score(x, theta), rtol=1e-9, atol=1e-9)
    assert torch.allclose(ratio.log(), toy.log_ratio(x, theta), rtol=1e-9, atol=1e-9)
    assert (events.joint_score - toy.score(x, theta)).abs().max() > 0.1


def test_support_and_edges():
    toy = build_toy("eft_quadratic")
    outside = torch.tensor([[-0.1, 0.0, 0.0], [1.0, 1.01, 0.0], [1.0, 0.0, 3.2]])
    assert (toy.log_prob(outside, torch.zeros(4)) == -math.inf).all()
    edges = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 3.0], [1e4, 0.3, -3.0]])
    for x in (outside, edges):
        assert toy.score(x, torch.tensor([1.0, -1.0, 14.0, -14.0], dtype=torch.float64)).isfinite().all()
    assert toy.log_prob(edges, torch.zeros(4)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"), [({"coefficients": 0}, "coefficients"), ({"coefficients": 11}, "1 to 10"), ({"absorptive": 0.0}, "absorptive")]
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("eft_quadratic", **options)
