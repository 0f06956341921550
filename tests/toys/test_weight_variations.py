"""Interpolation of weights: exact at the anchors, smooth between, additive where signs forbid logarithms."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from touchneedle.toys.weight_variations import smooth_between, varied_weights

positive = st.floats(1e-3, 1e3)
signed = st.floats(-100, 100)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def at(weights, *alpha):
    return varied_weights(tensor(weights), tensor(alpha)).item()


@given(signed, signed, signed)
@example(-2.225073858507e-311, -1.0, -1.0)
@settings(max_examples=50, deadline=None)
def test_the_anchors_are_exact_whatever_the_signs(nominal, down, up):
    for alpha, expected in ((-1.0, down), (0.0, nominal), (1.0, up)):
        assert at((nominal, down, up), alpha) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(positive, positive, positive, st.floats(-4, 4))
@settings(max_examples=50, deadline=None)
def test_positive_weights_stay_positive_and_are_powers_outside(nominal, down, up, alpha):
    weight = at((nominal, down, up), alpha)
    assert weight > 0
    assert at((-nominal, -down, -up), alpha) == pytest.approx(-weight)
    if alpha >= 1:
        assert weight == pytest.approx(nominal * (up / nominal) ** alpha)
    if alpha <= -1:
        assert weight == pytest.approx(nominal * (down / nominal) ** -alpha)


def test_a_symmetric_pair_is_an_exponential_everywhere():
    for alpha in (-3.0, -0.7, -0.2, 0.4, 2.5):
        assert at((2.0, 2.0 / 1.3, 2.0 * 1.3), alpha) == pytest.approx(2 * 1.3**alpha)
        assert at((0.0, -0.5, 0.5), alpha) == pytest.approx(0.5 * alpha)


@pytest.mark.parametrize("edge", [-1.0, 0.0, 1.0])
def test_value_and_two_derivatives_are_continuous(edge):
    found = []
    for side in (-1e-9, 1e-9):
        alpha = tensor(edge + side).requires_grad_()
        value = smooth_between(alpha, tensor(-0.3), tensor(0.8))
        (first,) = torch.autograd.grad(value.sum(), alpha, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), alpha)
        found.append([value.item(), first.item(), second.item()])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_the_step_is_that_of_an_independent_formula():
    """The smooth step from -1 to 1 with two vanishing derivatives at its ends is the integral of (1 - t^2)^2, normalised."""
    for alpha in torch.linspace(-1, 1, 9, dtype=torch.float64):
        t = torch.linspace(0, alpha.item(), 2_001, dtype=torch.float64)
        step = torch.trapezoid((1 - t**2) ** 2, t).item() * 15 / 8
        assert smooth_between(alpha, tensor(1.0), tensor(1.0)).item() == pytest.approx(alpha.item() * step, abs=1e-6)


def test_several_variations_multiply_where_they_can_and_add_where_they_must():
    weights = (2.0, 1.0, 3.0, -1.0, 4.0, 2.2, 1.9)
    first, second, third = (at((2.0, *weights[k : k + 2]), a) for k, a in ((1, 0.5), (3, -2.0), (5, 3.0)))
    assert at(weights, 0.5, -2.0, 3.0) == pytest.approx(2 * (first / 2) * (third / 2) + (second - 2))
    assert at(weights, 0.0, -2.0, 0.0) == pytest.approx(second)


def test_every_event_has_its_own_nuisances():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(20, 5, generator=generator, dtype=torch.float64) - 0.2
    alpha = 3 * torch.randn(20, 2, generator=generator, dtype=torch.float64)
    together = varied_weights(weights, alpha)
    singly = torch.cat([varied_weights(w[None], a[None]) for w, a in zip(weights, alpha, strict=True)])
    torch.testing.assert_close(together, singly, rtol=1e-12, atol=1e-12)


def test_combine_formula_for_asymmetric_factors():
    """kappa^nu with the smooth average of the two logarithms, as in Combine's documentation."""
    low, high, nu = 0.9, 1.25, 0.6
    smooth = 0.125 * nu * (nu**2 * (3 * nu**2 - 10) + 15)
    average, half = 0.5 * (math.log(high) - math.log(low)), 0.5 * (math.log(high) + math.log(low))
    assert at((1.0, low, high), nu) == pytest.approx(math.exp(nu * (average + smooth * half)))
