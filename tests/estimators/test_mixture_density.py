"""The mixture density network on a toy that it can hold exactly: two Gaussian modes whose centres are linear in theta."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, build_toy
from touchneedle.toys.gaussian_mixture import GaussianMixture

CORRELATION, RADIUS = 0.5, 3.0


@pytest.fixture(scope="module")
def toy() -> GaussianMixture:
    toy = build_toy("gaussian_mixture", dim=2, modes=2, radius=RADIUS, correlation=CORRELATION)
    assert isinstance(toy, GaussianMixture)
    return toy


@pytest.fixture(scope="module")
def events(toy: GaussianMixture) -> Events:
    generator = torch.Generator().manual_seed(1)
    return toy.sample(toy.spec.parameters.sample_prior(4_000, generator), generator=generator)


def exact_network(toy: GaussianMixture, events: Events) -> Estimator:
    """Weights by hand: without hidden layers the network is linear in theta, as the centres are."""
    estimator = build_estimator("mixture_density", toy.spec, components=2, hidden_features=()).double()
    estimator.prepare(events)
    x, theta = (estimator.get_submodule(f"standardise_{name}") for name in ("x", "theta"))
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    columns = []
    for k in range(2):
        centre = (toy._centre(points, k) @ toy._waves - x.mean) / x.std
        slope = (centre[1:] - centre[0]).T * theta.std
        mean = torch.cat([slope, (centre[0] + (centre[1:] - centre[0]).T @ theta.mean)[:, None]], 1)
        columns += [constant(toy._shares[k].log()), mean, constant(*factor(k, x.std))]
    weight = torch.cat(columns)
    with torch.no_grad():
        network = estimator.get_submodule("flow.network.0")
        network.weight.copy_(weight[:, :3])
        network.bias.copy_(weight[:, 3])
    return estimator


def constant(*values: Tensor) -> Tensor:
    """Rows of (slopes, offset) of outputs that do not depend on theta."""
    return torch.cat([torch.zeros(len(values), 3).double(), torch.stack(values)[:, None].double()], 1)


def factor(k: int, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Raw diagonal, and the entry below it, of L with L^T L the precision of mode k in standardised columns."""
    rho = CORRELATION * (-1) ** k
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]]).double() / std / std[:, None]
    lower = torch.linalg.cholesky(covariance.inverse().flip(0, 1)).flip(0, 1).T
    raw = 8 * torch.atanh(lower.diagonal().log() / 8)
    return raw[0], raw[1], lower[1, 0]


def test_it_holds_a_mixture_of_gaussians_exactly(toy: GaussianMixture, events: Events) -> None:
    estimator = exact_network(toy, events)
    expected = toy.log_prob(events.x, events.theta)
    torch.testing.assert_close(estimator.log_prob(events.x, events.theta).detach(), expected, rtol=1e-6, atol=1e-5)
    score = estimator.score(events.x[:50], events.theta[:50])
    torch.testing.assert_close(score, toy.score(events.x[:50], events.theta[:50]), rtol=1e-4, atol=1e-5)


def test_the_loss_is_stationary_at_the_exact_density(toy: GaussianMixture, events: Events) -> None:
    """The mean gradient is 0 within its statistical error, for each output."""
    estimator, n = exact_network(toy, events), 500
    bias = estimator.get_parameter("flow.network.0.bias")

    def significance() -> Tensor:
        loss = estimator.loss(events[:n], torch.Generator())
        (each,) = torch.autograd.grad(loss, bias, torch.eye(n).double(), is_grads_batched=True)
        return each.mean(0) / each.std(0) * math.sqrt(n)

    assert (significance().abs() < 4.5).all()
    with torch.no_grad():
        bias[1] += 0.3
    assert significance()[1] > 4.5


def test_samples_are_those_of_the_toy(toy: GaussianMixture, events: Events) -> None:
    estimator, n = exact_network(toy, events), 20_000
    theta = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64).expand(n, -1)
    draws = estimator.sample(theta, torch.Generator().manual_seed(2))
    expected = toy.sample(theta, generator=torch.Generator().manual_seed(3)).x.double()
    for moment in (lambda x: x, lambda x: x[:, :1] * x):
        error = ((moment(draws).var(0) + moment(expected).var(0)) / n).sqrt()
        assert ((moment(draws).mean(0) - moment(expected).mean(0)).abs() < 4 * error).all()
