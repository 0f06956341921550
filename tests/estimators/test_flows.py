"""Flows of all libraries: what every one of them must keep, whatever its weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.flow_density import ConditionalDensity
from touchneedle.toys.base import ExactToy, build_toy

AUTOREGRESSIVE = ["affine_flow", "nflows_maf", "nflows_nsf", "normflows_nsf", "zuko_maf", "zuko_nsf"]
COUPLINGS = ["nflows_coupling_nsf", "normflows_realnvp", "zuko_realnvp"]
FLOWS = sorted([*AUTOREGRESSIVE, *COUPLINGS, "zuko_cnf", "zuko_gf"])
FEATURES, CONTEXT = 2, 3


def wild(name: str, toy: ExactToy, spread: float, **params: object) -> ConditionalDensity:
    """An untrained estimator whose weights are far from where training starts."""
    generator = torch.Generator().manual_seed(1)
    options = {"hidden_features": (12, 12), **({"steps": 20} if name == "zuko_cnf" else {"transforms": 2}), **params}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, **options)
    assert isinstance(estimator, ConditionalDensity)
    theta = toy.spec.parameters.sample_prior(500, generator)
    estimator.prepare(toy.sample(theta, generator=generator))
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return estimator.eval()


def flow_of(estimator: ConditionalDensity) -> ConditionalFlow:
    assert isinstance(estimator.flow, ConditionalFlow)
    return estimator.flow


@pytest.fixture(scope="module")
def toy() -> ExactToy:
    """Two correlated modes in two dimensions, three parameters."""
    toy = build_toy("gaussian_mixture", dim=FEATURES, modes=2, radius=2.0)
    assert isinstance(toy, ExactToy)
    return toy


@pytest.fixture(scope="module")
def z() -> Tensor:
    return 2 * torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def context() -> Tensor:
    return torch.randn(64, CONTEXT, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", FLOWS)
def test_density_integrates_to_one(name: str, toy: ExactToy) -> None:
    estimator = wild(name, toy, 0.1).double()
    points = 81 if name == "zuko_cnf" else 201
    for theta in torch.tensor([[0.4, 1.0, -2.0], [-0.8, 0.0, 3.0]], dtype=torch.float64):
        draws = estimator.sample(theta.expand(2_000, 3), torch.Generator().manual_seed(0))
        low, high = draws.amin(0) - 2 * draws.std(0), draws.amax(0) + 2 * draws.std(0)
        first, second = (torch.linspace(low[k], high[k], points, dtype=torch.float64) for k in range(FEATURES))
        with torch.no_grad():
            density = estimator.log_prob(torch.cartesian_prod(first, second), theta).exp().reshape(points, points)
        assert abs(torch.trapezoid(torch.trapezoid(density, second), first) - 1) < 2e-3


@pytest.mark.parametrize("name", FLOWS)
def test_log_determinant_is_that_of_the_jacobian(name: str, toy: ExactToy, z: Tensor, context: Tensor) -> None:
    flow = flow_of(wild(name, toy, 0.3, **({"steps": 40} if name == "zuko_cnf" else {}))).double()
    z, context = z[:8].double(), context[:8].double()
    jacobian = torch.autograd.functional.jacobian(lambda value: flow.to_noise(value, context)[0].sum(0), z)
    expected = torch.linalg.slogdet(jacobian.transpose(0, 1)).logabsdet
    torch.testing.assert_close(flow.to_noise(z, context)[1].detach(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FLOWS)
def test_noise_comes_back_in_float32(name: str, toy: ExactToy, context: Tensor) -> None:
    flow = flow_of(wild(name, toy, 0.3))
    noise = torch.randn(64, FEATURES, generator=torch.Generator().manual_seed(4), dtype=torch.float64).float()
    z = flow.sample(context, torch.Generator().manual_seed(4))
    assert z.dtype == torch.float32
    back, _ = flow.to_noise(z, context)
    assert ((back - noise).abs() < 1e-3 * (1 + noise.abs())).all()


@pytest.mark.parametrize("name", FLOWS)
def test_far_away_and_at_the_edge_of_splines_all_is_finite(name: str, toy: ExactToy) -> None:
    flow = flow_of(wild(name, toy, 0.3))
    after, before = (torch.nextafter(torch.tensor(5.0), torch.tensor(end)).item() for end in (10.0, 0.0))
    places = torch.tensor([0.0, before, 5.0, after, 30.0, 1e3, -before, -5.0, -after, -30.0, -1e3])
    z = torch.cartesian_prod(places, places).requires_grad_()
    context = torch.full((len(z), CONTEXT), 0.5, requires_grad=True)
    value = flow.log_prob(z, context)
    assert torch.isfinite(value).all()
    for distance in (5.1, 31.0):
        near = value[(z.detach().abs() < distance).all(1)].sum()
        gradients = torch.autograd.grad(near, [z, context, *flow.parameters()], retain_graph=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", FLOWS)
def test_every_column_depends_on_the_context(name: str, toy: ExactToy, z: Tensor, context: Tensor) -> None:
    """One layer is enough, where the layer moves all columns."""
    layers = 2 if name in COUPLINGS else 1
    flow = flow_of(wild(name, toy, 0.3, **({} if name == "zuko_cnf" else {"transforms": layers})))
    context = context.clone().requires_grad_()
    noise, _ = flow.to_noise(z, context)
    for column in noise.T:
        (gradient,) = torch.autograd.grad(column.sum(), context, retain_graph=True)
        assert (gradient.abs().amax(0) > 1e-3).all()


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
def test_an_autoregressive_layer_looks_back_only(name: str, context: Tensor) -> None:
    three = build_toy("gaussian_mixture", dim=3, modes=2)
    assert isinstance(three, ExactToy)
    flow = flow_of(wild(name, three, 0.3, transforms=1)).double()
    z = torch.randn(8, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda value: flow.to_noise(value, context[:8].double())[0].sum(0), z)
    strength = jacobian.abs().amax(1)
    # normflows_nsf turns the order of the columns round after every layer, the last one too.
    strength = strength.flip(0) if name == "normflows_nsf" else strength
    assert (strength.triu(1) == 0).all()
    assert (strength + torch.ones(3, 3).triu(1) > 0).all()


@pytest.mark.parametrize("name", FLOWS)
def test_loss_is_the_weighted_likelihood(name: str, toy: ExactToy) -> None:
    estimator = wild(name, toy, 0.1).double()
    generator = torch.Generator().manual_seed(5)
    events = toy.sample(toy.spec.parameters.sample_prior(300, generator), generator=generator)
    events = events.with_weight(torch.rand(300, generator=generator))
    estimator.prepare(events)
    expected = -events.weight / events.weight.mean() * estimator.log_prob(events.x, events.theta)
    torch.testing.assert_close(estimator.loss(events, generator).detach(), expected.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_weights_reload(name: str, toy: ExactToy) -> None:
    estimator = wild(name, toy, 0.3)
    fresh = build_estimator(name, toy.spec, **vars(estimator.config))
    fresh.load_tensors(estimator.state_dict())
    events = toy.sample(torch.zeros(50, 3, dtype=torch.float64), generator=torch.Generator().manual_seed(6))
    assert torch.equal(fresh.log_prob(events.x, torch.ones(3)), estimator.log_prob(events.x, torch.ones(3)))
