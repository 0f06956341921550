"""The counting-and-shape toy: density per region, yields, and how much of mu is in the counts."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 60_000
UNIT = 1_000 / 2.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def intensity(region, mass, theta):
    """Expected events per GeV in a region, by scipy's truncated distributions."""
    mu, beta, nu = theta
    mean = 125 * (1 + 0.01 * nu)
    background = UNIT * beta * stats.truncexpon.pdf(mass, b=1.8, loc=100, scale=1 / 0.03)
    signal = UNIT * 0.5 * mu * math.exp(0.1 * nu) * stats.truncnorm.pdf(mass, (100 - mean) / 3, (160 - mean) / 3, mean, 3)
    return background if region else signal + background


def expected_events(theta):
    return UNIT * (0.5 * theta[0] * math.exp(0.1 * theta[2]) + 2 * theta[1])


def corners():
    return [(1.0, 1.0, 0.0), *itertools.product((0.0, 3.0), (0.5, 2.0), (-14.0, 14.0))]


def assert_mean(values, expected):
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


def test_density_matches_second_implementation():
    toy = build_toy("counting_and_shape")
    theta = toy.spec.parameters.sample_prior(200, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[::3, 1] = torch.linspace(100, 160, len(x[::3]), dtype=torch.float64)
    expected = [math.log(intensity(*a, t) / expected_events(t)) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("theta", corners())
def test_density_sums_and_integrates_to_one(theta):
    toy = build_toy("counting_and_shape")
    nodes, weight = np.polynomial.legendre.leggauss(400)
    mass = torch.from_numpy(130 + 30 * nodes)
    for region, share in ((1.0, UNIT * theta[1] / expected_events(theta)), (0.0, None)):
        x = torch.stack([torch.full_like(mass, region), mass], -1)
        total = (toy.log_prob(x, point(theta)).exp() @ torch.from_numpy(30 * weight)).item()
        assert total == pytest.approx(1 - UNIT * theta[1] / expected_events(theta) if share is None else share, abs=1e-10)


def test_zero_density_outside_and_between_the_regions():
    toy = build_toy("counting_and_shape")
    x = point([[0.0, 99.9], [1.0, 160.1], [0.5, 120.0], [-1.0, 120.0], [math.inf, 120.0]])
    assert (toy.log_prob(x, point([1.0, 1.0, 0.0])) == -math.inf).all()
    assert not toy.score(x, point([1.0, 1.0, 0.0])).isnan().any()


@pytest.mark.parametrize("theta", [(1.0, 1.0, 0.0), (2.5, 0.6, -3.0), (0.2, 1.5, 8.0)])
def test_labels_regions_and_masses(theta):
    toy = build_toy("counting_and_shape")
    events = toy.sample(point(theta).expand(N, -1), generator=generator(2))
    region, mass = events.x.double().T
    mean = 125 * (1 + 0.01 * theta[2])
    peak = stats.truncnorm((100 - mean) / 3, (160 - mean) / 3, mean, 3)
    falling = stats.truncexpon(b=1.8, loc=100, scale=1 / 0.03)
    rates = toy.rates(point(theta)[None])[0]
    assert rates.sum().item() == pytest.approx(expected_events(theta), rel=1e-12)
    assert torch.equal(region == 1, events.label == 2)
    for label, truth in enumerate((peak, falling, falling)):
        assert_mean((events.label == label).double(), (rates[label] / rates.sum()).item())
        assert_mean(mass[events.label == label], truth.mean())
        assert_mean((mass[events.label == label] - truth.mean()) ** 2, truth.var())


def test_score_against_finite_differences_and_the_edges():
    """At mu = 0 the score of mu is the signal over the background intensity, less the relative yield."""
    toy = build_toy("counting_and_shape")
    x = toy.sample(toy.spec.parameters.nominal.expand(50, -1), generator=generator(3)).x.double()
    theta, step = point([0.7, 1.2, -0.8]), 1e-5
    for column in range(3):
        move = step * torch.eye(3, dtype=torch.float64)[column]
        slope = (toy.log_prob(x, theta + move) - toy.log_prob(x, theta - move)) / (2 * step)
        assert torch.allclose(toy.score(x, theta)[:, column], slope, atol=1e-7)
    edge = (0.0, 1.2, 0.5)
    with_signal = np.array([intensity(*a, (1.0, 1.2, 0.5)) / intensity(*a, edge) - 1 for a in x.numpy()])
    expected = with_signal - 0.5 * math.exp(0.05) / 2.4
    np.testing.assert_allclose(toy.score(x, point(edge))[:, 0], expected, rtol=1e-9, atol=1e-9)


def extended_information(theta):
    """Information matrix of the Poisson process, int d lambda d lambda / lambda, by quadrature and numerical slopes."""
    nodes, weight = np.polynomial.legendre.leggauss(200)
    mass, step = 130 + 30 * nodes, 1e-5
    total = np.zeros((3, 3))
    for region in (0, 1):
        moved = [(intensity(region, mass, theta + step * e) - intensity(region, mass, theta - step * e)) / (2 * step) for e in np.eye(3)]
        total += (30 * weight * np.stack(moved) / intensity(region, mass, theta)) @ np.stack(moved).T
    return total


def test_fisher_information_of_the_extended_likelihood():
    """Shape: N E[score score^T]; counts: (grad of the yield)^2 / yield; together that of the Poisson process."""
    toy = build_toy("counting_and_shape")
    theta = point([1.0, 1.1, 0.5]).requires_grad_()
    total = toy.expected_events(theta[None])[0]
    (slope,) = torch.autograd.grad(total, theta)
    theta, total = theta.detach(), total.item()
    score = toy.score(toy.sample(theta.expand(N, -1), generator=generator(4)).x, theta)
    expected = extended_information(theta.numpy())
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        assert_mean(total * score[:, i] * score[:, j], expected[i, j] - (slope[i] * slope[j]).item() / total)


def test_the_shape_alone_cannot_measure_mu():
    """mu and beta scaled together leave p(x) as it is; the yields of both regions tell them apart."""
    toy = build_toy("counting_and_shape")
    nominal = toy.spec.parameters.nominal
    events = toy.sample(nominal.expand(1_000, -1), generator=generator(6))
    both = point([1.5, 1.5, 0.0])
    assert torch.allclose(toy.log_prob(events.x, both), toy.log_prob(events.x, nominal), atol=1e-12)
    assert toy.expected_events(both[None]).item() == pytest.approx(1_500)
    information = extended_information(nominal.numpy()) + np.diag([0, 0, 1.0])
    slope = np.array([0.5, 2.0, 0.5 * 0.1]) * UNIT
    assert np.linalg.eigvalsh(information - np.outer(slope, slope) / 1_000)[0] == pytest.approx(0, abs=1e-5)
    assert np.linalg.inv(information)[0, 0] ** 0.5 < 0.15


def test_joint_truth_and_batch_invariance():
    toy = build_toy("counting_and_shape")
    theta = toy.spec.parameters.sample_prior(20, generator())
    events = toy.sample(theta, generator=generator(5))
    nominal = toy.spec.parameters.nominal
    fraction = toy.rates(theta) / toy.rates(theta).sum(-1, keepdim=True)
    reference = toy.rates(nominal[None]) / toy.rates(nominal[None]).sum()
    ratio = fraction.log() - reference.log() + toy.log_prob_process(events.x, theta) - toy.log_prob_process(events.x, nominal)
    assert torch.allclose(events.joint_log_ratio, ratio.gather(-1, events.label[:, None])[:, 0], rtol=1e-12)
    singly = torch.cat([toy.log_prob(x[None], t) for x, t in zip(events.x, theta, strict=True)])
    assert torch.allclose(toy.log_prob(events.x, theta), singly, rtol=1e-13)


@pytest.mark.parametrize("option", ["signal", "tau", "fit_events"])
def test_bad_options(option):
    with pytest.raises(InputError, match=option):
        build_toy("counting_and_shape", **{option: 0})
