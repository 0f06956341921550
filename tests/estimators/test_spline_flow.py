"""Our splines beside those of nflows, against automatic differentiation, and there and back."""

from __future__ import annotations

import math

import pytest
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from torch import Tensor

from touchneedle.estimators import rational_quadratic
from touchneedle.estimators.flow_density import SplineFlowConfig
from touchneedle.estimators.spline_flow import FeatureFirstSplines

D, K, N, REACH = 3, 8, 400, 5.0


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def free_parameters(scale: float, bins: int = K) -> Tensor:
    return scale * torch.randn(D, 3 * bins - 1, N, generator=generator(0), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_splines_are_those_of_nflows(scale: float) -> None:
    parameters = free_parameters(scale)
    x = 3 * torch.randn(D, N, generator=generator(1), dtype=torch.float64)
    width, height, slope = (part.permute(0, 2, 1) for part in parameters.split([K, K, K - 1], 1))
    # Free slopes of zero are slopes of one here; there, ln(e^0.999 - 1) is.
    theirs = unconstrained_rational_quadratic_spline(
        x, width, height, slope + math.log(math.expm1(0.999)), tail_bound=REACH, tails="linear"
    )
    ours = rational_quadratic.forward(x, parameters, REACH)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_free_parameters_of_zero_are_the_identity() -> None:
    x = torch.linspace(-7, 7, N, dtype=torch.float64).expand(D, N)
    y, log_slope = rational_quadratic.forward(x, free_parameters(0.0), REACH)
    torch.testing.assert_close(y, x)
    assert float(log_slope.abs().max()) < 1e-12


@pytest.mark.parametrize("bins", [1, K, 300])
def test_there_and_back(bins: int) -> None:
    parameters = free_parameters(3.0, bins)
    x = 3 * torch.randn(D, N, generator=generator(2), dtype=torch.float64)
    y, _ = rational_quadratic.forward(x, parameters, REACH)
    torch.testing.assert_close(rational_quadratic.inverse(y, parameters, REACH), x, atol=1e-9, rtol=0)


def flow(features: int = D, context: int = 2) -> FeatureFirstSplines:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        built = FeatureFirstSplines(features, context, SplineFlowConfig(transforms=3, hidden_features=(16, 16)))
    # First weights are small: larger ones bend the splines.
    for parameter in built.parameters():
        parameter.data *= 3
    return built.double()


def test_the_log_determinant_is_that_of_automatic_differentiation() -> None:
    built = flow()
    z, context = (
        torch.randn(5, D, generator=generator(4), dtype=torch.float64),
        torch.randn(5, 2, generator=generator(5), dtype=torch.float64),
    )
    log_det = built.to_noise(z, context)[1].detach()
    for row in range(5):
        jacobian = torch.autograd.functional.jacobian(lambda one, row=row: built.to_noise(one[None], context[row][None])[0][0], z[row])
        assert math.isclose(float(torch.linalg.slogdet(jacobian).logabsdet), float(log_det[row]), abs_tol=1e-9)


def test_every_feature_depends_on_the_context_and_all_on_each_other_across_layers() -> None:
    built = flow()
    z, context = torch.randn(1, D, generator=generator(6), dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    to_context = torch.autograd.functional.jacobian(lambda c: built.to_noise(z, c)[0][0], context)
    to_z = torch.autograd.functional.jacobian(lambda one: built.to_noise(one, context)[0][0], z)
    assert bool((to_context.abs() > 0).all())
    assert bool((to_z.abs() > 0).all())


@pytest.mark.parametrize("features", [1, D])
def test_samples_follow_the_density(features: int) -> None:
    built = flow(features)
    context = torch.full((2_000, 2), 0.5, dtype=torch.float64)
    z = built.sample(context, generator(7))
    noise, _ = built.to_noise(z, context)
    expected = torch.randn(2_000, features, generator=generator(7), dtype=torch.float64)
    torch.testing.assert_close(noise, expected, atol=1e-8, rtol=1e-8)


def test_a_flow_of_one_feature_is_normalised() -> None:
    built = flow(1)
    z = torch.linspace(-12, 12, 1_000_001, dtype=torch.float64)[:, None]
    density = built.log_prob(z, torch.full((len(z), 2), -0.3, dtype=torch.float64)).exp()
    assert float(torch.trapezoid(density.detach(), z[:, 0])) == pytest.approx(1.0, abs=1e-6)
