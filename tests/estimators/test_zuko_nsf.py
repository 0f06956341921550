"""The spline flow: support, derivatives, shared work in grids."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, ExactToy, ToySpec

LOW, HIGH = -1.0, 2.0


@pytest.fixture
def bounded(location: ExactToy) -> ToySpec:
    """The spec of the location toy, with x between -1 and 2."""
    return replace(location.spec, features=(replace(location.spec.features[0], support=(LOW, HIGH)),))


def built(spec: ToySpec, **params: object) -> Estimator:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = build_estimator("zuko_nsf", spec, transforms=2, hidden_features=(8,), **params)
    theta = spec.parameters.sample_prior(500, generator)
    x = LOW + (HIGH - LOW) * torch.rand(500, 1, generator=generator)
    flow.prepare(Events(x, theta, torch.ones(500)))
    return flow.double()


def test_density_vanishes_outside_the_support_and_integrates_to_one_inside(bounded: ToySpec) -> None:
    flow = built(bounded)
    theta = torch.tensor([0.3, -0.5])
    outside = torch.tensor([[LOW - 1e-3], [HIGH + 1e-3], [1e6]])
    assert flow.log_prob(outside, theta).tolist() == [-math.inf] * 3
    assert torch.isfinite(flow.log_ratio(outside, theta)).all()
    x = torch.linspace(LOW, HIGH, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(flow.log_prob(x[:, None], theta).exp(), x)
    assert abs(integral - 1) < 1e-3
    draws = flow.sample(theta.expand(2_000, 2), torch.Generator().manual_seed(1))
    assert draws.min() > LOW
    assert draws.max() < HIGH


def test_without_logit_support_the_density_leaks(bounded: ToySpec) -> None:
    flow = built(bounded, logit_support=False)
    assert torch.isfinite(flow.log_prob(torch.tensor([[HIGH + 0.5]]), torch.zeros(2))).all()


def test_twice_differentiable_in_theta(location: ExactToy) -> None:
    flow = built(location.spec)
    x = torch.tensor([[0.3], [-0.7]], dtype=torch.float64)
    theta = torch.tensor([[0.4, 1.0], [-0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda point: flow.log_ratio(x, point), (theta,))


def test_samples_follow_the_density(location: ExactToy) -> None:
    flow, n = built(location.spec), 10_000
    theta = torch.tensor([0.4, 1.0], dtype=torch.float64)
    draws = flow.sample(theta.expand(n, -1), torch.Generator().manual_seed(2))[:, 0]
    x = torch.linspace(-8, 8, 8_001, dtype=torch.float64)
    density = flow.log_prob(x[:, None], theta).exp().detach()
    mean, square = (torch.trapezoid(density * moment, x) for moment in (x, x**2))
    assert abs(draws.mean() - mean) < 4 * draws.std() / n**0.5
    assert abs((draws**2).mean() - square) < 4 * (draws**2).std() / n**0.5
