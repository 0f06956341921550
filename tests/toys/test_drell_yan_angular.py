"""drell_yan_angular against its form in Cartesian tensors: density, positivity, moments, periodicity, score, information."""

import itertools
import math

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

CORNERS = list(itertools.product((-0.9, 0.9), (-14.0, 14.0), (-14.0, 14.0)))
POINTS = [(0.2, 0.0, 0.0), (-0.5, 2.0, -3.0), (0.8, -5.0, 4.0)]
OTHER = [0.05, 0.02, 0.03, -0.06, 0.2, 0.03, -0.03, 0.06]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coefficients(theta, nominal=(0.10, 0.03, 0.08, 0.02, 0.20, 0.005, 0.005, 0.005)):
    a0, a1, a2, a3, _, a5, a6, a7 = nominal
    recoil = math.exp(0.1 * theta[1])
    odds = 0.7 / 0.3 * math.exp(0.15 * theta[2])
    dilution = odds / (1 + odds)
    return np.array([a0 * recoil, a1 * recoil, a2 * recoil, a3 * dilution, theta[0] * dilution, a5, a6, a7])


def second(x, theta, **options):
    """n^T S n + v n: the decay of a spin-1 boson as a symmetric tensor and a vector."""
    a0, a1, a2, a3, a4, a5, a6, a7 = coefficients(theta, **options)
    sine = np.sqrt(1 - x[:, 0] ** 2)
    n = np.stack([sine * np.cos(x[:, 1]), sine * np.sin(x[:, 1]), x[:, 0]], -1)
    tensor = np.array([[1 + a0 / 2 + a2 / 2, a5, a1], [a5, 1 + a0 / 2 - a2 / 2, a6], [a1, a6, 2 - a0]])
    return 3 / (16 * math.pi) * (np.einsum("ni,ij,nj->n", n, tensor, n) + n @ [a3, a7, a4])


def angles():
    """Product rule: the trapezium rule is exact for harmonics of phi, Gauss-Legendre in t with c = sin(pi t / 2) for the poles."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    cosine, jacobian = np.sin(math.pi / 2 * nodes), math.pi / 2 * np.cos(math.pi / 2 * nodes)
    phi = -math.pi + 2 * math.pi * np.arange(16) / 16
    grid = np.stack(np.meshgrid(cosine, phi, indexing="ij"), -1).reshape(-1, 2)
    return grid, np.repeat(weights * jacobian, 16) * 2 * math.pi / 16


GRID, WEIGHT = angles()


@pytest.mark.parametrize("nominal", [None, OTHER])
@pytest.mark.parametrize("theta", [*POINTS, *CORNERS])
def test_log_prob_matches_the_tensor_form_is_positive_and_integrates_to_one(theta, nominal):
    toy = build_toy("drell_yan_angular", **({"coefficients": nominal} if nominal else {}), dilution=0.7)
    expected = second(GRID, theta, **({"nominal": nominal} if nominal else {}))
    found = toy.log_prob(torch.from_numpy(GRID), torch.tensor(theta, dtype=torch.float64))
    assert expected.min() > 0
    np.testing.assert_allclose(found, np.log(expected), rtol=1e-9, atol=1e-9)
    assert np.exp(found.numpy()) @ WEIGHT == pytest.approx(1, abs=1e-10)


def test_events_have_the_moments_that_define_the_coefficients():
    """Weighted means of spherical harmonics, as experiments extract A_i (arXiv:1606.00689)."""
    toy = build_toy("drell_yan_angular", coefficients=OTHER)
    theta = (0.5, 2.0, 1.0)
    a = coefficients(theta, OTHER)
    x = toy.sample(torch.tensor(theta, dtype=torch.float64).expand(200_000, -1), generator=generator(3)).x.double().numpy()
    c, phi = x.T
    s = np.sqrt(1 - c**2)
    moments = {
        3 / 20 * (a[0] - 2 / 3): 0.5 * (1 - 3 * c**2),
        a[1] / 5: 2 * s * c * np.cos(phi),
        a[2] / 10: s**2 * np.cos(2 * phi),
        a[3] / 4: s * np.cos(phi),
        a[4] / 4: c,
        a[5] / 5: s**2 * np.sin(2 * phi),
        a[6] / 5: 2 * s * c * np.sin(phi),
        a[7] / 4: s * np.sin(phi),
    }
    assert len(moments) == 8
    for expected, values in moments.items():
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))
    assert toy.log_prob(torch.from_numpy(x), torch.tensor(theta, dtype=torch.float64)).isfinite().all()


def test_the_azimuth_is_periodic_and_declared_so():
    toy = build_toy("drell_yan_angular", coefficients=OTHER)
    theta = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)
    cosine = torch.linspace(-1, 1, 21, dtype=torch.float64)
    left, right = (torch.stack([cosine, torch.full_like(cosine, edge)], -1) for edge in (-math.pi, math.pi))
    assert torch.allclose(toy.log_prob(left, theta), toy.log_prob(right, theta), rtol=1e-12)
    assert toy.spec.features[1].kind == "periodic"
    outside = torch.tensor([[0.0, 3.2], [1.01, 0.0], [-5.0, -9.0]], dtype=torch.float64)
    assert (toy.log_prob(outside, theta) == -math.inf).all()
    assert toy.score(outside, theta).isfinite().all()


def test_score_in_closed_form_and_information_by_quadrature():
    toy = build_toy("drell_yan_angular")
    theta = torch.tensor([0.3, 1.0, -1.0], dtype=torch.float64)
    score = toy.score(torch.from_numpy(GRID), theta).numpy()
    density = second(GRID, theta.tolist())
    dilution = coefficients(theta.tolist())[4] / 0.3
    np.testing.assert_allclose(score[:, 0], 3 / (16 * math.pi) * dilution * GRID[:, 0] / density, rtol=1e-9)
    for column in (1, 2):
        step = np.zeros(3)
        step[column] = 1e-5
        slope = (np.log(second(GRID, theta.numpy() + step)) - np.log(second(GRID, theta.numpy() - step))) / 2e-5
        np.testing.assert_allclose(score[:, column], slope, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose((WEIGHT * density) @ score, 0, atol=1e-9)
    squares = toy.score(toy.sample(theta.expand(40_000, -1), generator=generator(4)).x, theta) ** 2
    errors = squares.std(0) / math.sqrt(len(squares))
    expected = torch.from_numpy((WEIGHT * density) @ score**2)
    assert ((squares.mean(0) - expected).abs() < 4 * errors).all()


def test_a_batch_is_its_events_one_by_one():
    toy = build_toy("drell_yan_angular")
    theta = toy.spec.parameters.sample_prior(30, generator())
    x = toy.sample(theta, generator=generator(1)).x
    singly = torch.cat([toy.log_prob(x[i : i + 1], theta[i]) for i in range(30)])
    assert torch.allclose(toy.log_prob(x, theta), singly, rtol=1e-12)
    assert toy.expected_events(theta).tolist() == [10_000.0] * 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coefficients": [0.1] * 7}, "eight numbers"),
        ({"coefficients": [0.1, 0, 0.1, 0, 1.5, 0, 0, 0]}, "A_4"),
        ({"coefficients": [0.1, 0.2, 0.1, 0.5, 0.2, 0, 0, 0.5]}, "positive"),
        ({"dilution": 1.0}, "dilution"),
        ({"fit_events": 0}, "fit_events"),
    ],
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=f"drell_yan_angular.*{words}"):
        build_toy("drell_yan_angular", **options)
