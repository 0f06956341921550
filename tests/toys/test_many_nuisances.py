"""many_nuisances: density, and the proof that factorised morphing fails in proportion to epsilon."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

OPTIONS = [{}, {"nuisances": 1, "epsilon": 0.7}, {"nuisances": 2, "a": 0.3}, {"nuisances": 100, "epsilon": 0.01}]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mean(config, theta):
    """E[x|theta], term by term."""
    k = config.nuisances
    d = k + 1
    waves = [[math.sqrt((1 if j == 0 else 2) / d) * math.cos(math.pi * j * (2 * i + 1) / (2 * d)) for i in range(d)] for j in range(d)]
    waves = np.array(waves)
    signal, nuisances = theta[0], theta[1:]
    q = sum(nuisances[j] * nuisances[j + 1] for j in range(k - 1))
    u = (waves[0] + sum(waves[1:]) / math.sqrt(k)) / math.sqrt(2)
    return (signal + config.epsilon * q) * u + config.a * nuisances @ waves[1:]


def box(toy):
    """Nominal, the corners of the theta box, and the middles of its edges (the first 81 of them)."""
    space = toy.spec.parameters
    sides = zip(space.low.tolist(), space.nominal.tolist(), space.high.tolist(), strict=True)
    return torch.tensor(list(itertools.islice(itertools.product(*sides), 81)), dtype=torch.float64)


def factorised(toy, x, theta):
    """log p(x|signal, 0) + sum_k [log p(x|signal, nu_k) - log p(x|signal, 0)], shape (n,)."""
    none = torch.cat([theta[:, :1], torch.zeros_like(theta[:, 1:])], -1)
    total = base = toy.log_prob(x, none)
    for k in range(1, theta.shape[1]):
        single = none.clone()
        single[:, k] = theta[:, k]
        total = total + toy.log_prob(x, single) - base
    return total


def events_at(toy, theta, n, seed=3):
    theta = torch.tensor(theta, dtype=torch.float64).expand(n, -1)
    return toy.sample(theta, generator=generator(seed)), theta


@pytest.mark.parametrize("options", OPTIONS)
def test_log_prob_is_the_normal_of_scipy_over_the_box_and_in_the_tails(options):
    """The normal of scipy is normalised at every theta, and so is what equals it."""
    toy = build_toy("many_nuisances", **options)
    theta = torch.cat([box(toy), toy.spec.parameters.sample_prior(20, generator())])
    centre = np.stack([mean(toy.config, row) for row in theta.numpy()])
    for reach in (1.0, 30.0):
        x = centre + reach * np.random.default_rng(1).standard_normal(centre.shape)
        expected = stats.norm.logpdf(x, centre).sum(-1)
        np.testing.assert_allclose(toy.log_prob(torch.from_numpy(x), theta).numpy(), expected, rtol=1e-10, atol=1e-9)


def test_integrates_to_one_over_the_box():
    toy = build_toy("many_nuisances", nuisances=1)
    axis = torch.arange(-12, 12, 0.25, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    for theta in box(toy):
        assert toy.log_prob(x, theta).exp().sum().item() * 0.25**2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("options", OPTIONS)
def test_moments_of_the_events(options):
    toy = build_toy("many_nuisances", **options)
    theta = np.linspace(0.5, -2.5, toy.spec.theta_dim)
    events, _ = events_at(toy, theta, 20_000)
    residual = events.x.double().numpy() - mean(toy.config, theta)
    assert np.abs(residual.mean(0)).max() < 4.5 / math.sqrt(20_000)
    identity = np.eye(toy.spec.x_dim)
    assert np.abs((residual.T @ residual / 20_000 - identity) / np.sqrt((1 + identity) / 20_000)).max() < 5


@pytest.mark.parametrize("options", OPTIONS[:3])
def test_score_and_fisher_information_in_closed_form(options):
    """The response to each parameter, with dq/dnu_k = nu_(k-1) + nu_(k+1), by finite differences of the mean."""
    toy = build_toy("many_nuisances", **options)
    theta = np.linspace(0.5, -2.5, toy.spec.theta_dim)
    steps = 1e-3 * np.eye(len(theta))
    # The mean is linear in each parameter: central differences are exact.
    response = np.stack([(mean(toy.config, theta + s) - mean(toy.config, theta - s)) / 2e-3 for s in steps])
    events, at = events_at(toy, theta, 20_000)
    score = toy.score(events.x, at).numpy()
    np.testing.assert_allclose(score, (events.x.double().numpy() - mean(toy.config, theta)) @ response.T, rtol=1e-8, atol=1e-8)
    products = score[:, :, None] * score[:, None, :]
    pulls = (products.mean(0) - response @ response.T) / (products.std(0) / math.sqrt(len(score)))
    assert np.abs(pulls).max() < 4.5


@pytest.mark.parametrize("nuisances", [2, 5, 100])
def test_factorised_morphing_is_exact_without_coupling(nuisances):
    toy = build_toy("many_nuisances", nuisances=nuisances, epsilon=0.0)
    theta = toy.spec.parameters.sample_prior(20, generator())
    x = toy.sample(theta, generator=generator(1)).x
    np.testing.assert_allclose(factorised(toy, x, theta).numpy(), toy.log_prob(x, theta).numpy(), rtol=1e-10, atol=1e-10)


def test_single_nuisance_templates_do_not_show_the_coupling():
    coupled, free = build_toy("many_nuisances", epsilon=0.5), build_toy("many_nuisances", epsilon=0.0)
    for column in (1, 2, 3):
        theta = free.spec.parameters.nominal.clone()
        theta[column] = 2.0
        x = free.sample(theta.expand(20, -1), generator=generator()).x
        assert torch.equal(coupled.log_prob(x, theta), free.log_prob(x, theta))


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
def test_factorised_morphing_fails_in_proportion_to_the_coupling(epsilon):
    """D = log p - factorised has mean (epsilon q)^2 / 2 and standard deviation |epsilon q| over p(x|theta)."""
    toy = build_toy("many_nuisances", epsilon=epsilon)
    events, theta = events_at(toy, [0.3, 1.0, -2.0, 1.5], 40_000)
    size = epsilon * abs(1.0 * -2.0 + -2.0 * 1.5)
    missed = (toy.log_prob(events.x, theta) - factorised(toy, events.x, theta)).numpy()
    n = len(missed)
    assert abs(missed.mean() - size**2 / 2) < 4 * size / math.sqrt(n)
    assert abs(missed.std() - size) < 4 * size / math.sqrt(2 * n)
    assert stats.kstest((missed - size**2 / 2) / size, "norm").pvalue > 1e-4


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_factorised_morphing_reads_the_coupling_as_signal(epsilon):
    """At the true nuisances its mean score has its root at signal + epsilon q, not at the true signal."""
    toy = build_toy("many_nuisances", epsilon=epsilon)
    events, theta = events_at(toy, [0.3, 1.0, -2.0, 1.5], 40_000)
    moved = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(factorised(toy, events.x, moved).mean(), moved)
    # log p is quadratic in the signal with curvature -1: the root is one Newton step away.
    found = 0.3 + slope.sum(0)[0].item()
    assert abs(found - (0.3 - 5 * epsilon)) < 4 / math.sqrt(len(events))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"nuisances": 0}, "1 to 100"), ({"nuisances": 101}, "1 to 100"), ({"epsilon": -0.1}, "epsilon"), ({"epsilon": math.nan}, "epsilon")],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("many_nuisances", **options)
