"""Interpolation code 4 against its defining properties and an independent derivation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from touchneedle.estimators.interpolation import code4_coefficients, interpolate_code4, log_interpolate_code4

UP = torch.tensor([1.2, 0.7, 1.0, 3.0, 1.05], dtype=torch.float64)
DOWN = torch.tensor([0.9, 0.8, 1.0, 0.4, 1.3], dtype=torch.float64)


def derivatives(alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative in alpha for every bin."""
    point = torch.full_like(UP, alpha).requires_grad_()
    value = interpolate_code4(point, UP, DOWN)
    (first,) = torch.autograd.grad(value.sum(), point, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), point)
    return value.detach(), first.detach(), second


def test_anchors_and_nominal() -> None:
    for alpha, expected in [(1.0, UP), (-1.0, DOWN), (0.0, torch.ones_like(UP))]:
        torch.testing.assert_close(derivatives(alpha)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_value_and_two_derivatives_are_continuous_at_the_anchors(side: float) -> None:
    ratio = UP if side > 0 else DOWN
    slope = side * ratio.log()
    expected = (ratio, ratio * slope, ratio * slope**2)
    for inside_or_out in (side * (1 - 1e-9), side * (1 + 1e-9)):
        for value, wanted in zip(derivatives(inside_or_out), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)


def test_outside_is_exponential() -> None:
    torch.testing.assert_close(interpolate_code4(torch.tensor(2.5, dtype=torch.float64), UP, DOWN), UP**2.5)
    torch.testing.assert_close(interpolate_code4(torch.tensor(-3.0, dtype=torch.float64), UP, DOWN), DOWN**3)


def test_coefficients_equal_the_solution_of_the_six_conditions() -> None:
    powers = torch.arange(1, 7, dtype=torch.float64)
    rows, wanted = [], []
    for side, ratio in ((1.0, UP), (-1.0, DOWN)):
        slope = side * ratio.log()
        rows += [side**powers, powers * side ** (powers - 1), powers * (powers - 1) * side ** (powers - 2)]
        wanted += [ratio - 1, ratio * slope, ratio * slope**2]
    solution = torch.linalg.solve(torch.stack(rows), torch.stack(wanted))
    torch.testing.assert_close(torch.stack(code4_coefficients(UP, DOWN)), solution, rtol=1e-10, atol=1e-10)


def test_broadcasts_over_alphas_and_bins_and_gradients_are_right() -> None:
    alpha = torch.tensor([[-2.0], [-0.3], [0.6], [1.7]], dtype=torch.float64, requires_grad=True)
    assert interpolate_code4(alpha, UP, DOWN).shape == (4, 5)
    ratios = (UP.clone().requires_grad_(), DOWN.clone().requires_grad_())
    assert torch.autograd.gradcheck(interpolate_code4, (alpha, *ratios))
    assert torch.autograd.gradgradcheck(interpolate_code4, (alpha, *ratios))


def test_logarithm_agrees_and_stays_finite_where_the_factor_does_not() -> None:
    alpha = torch.tensor([[-2.0], [-0.3], [0.0], [0.6], [1.7]], dtype=torch.float64)
    torch.testing.assert_close(log_interpolate_code4(alpha, UP.log(), DOWN.log()), interpolate_code4(alpha, UP, DOWN).log())
    far = log_interpolate_code4(torch.tensor([400.0, -400.0]), torch.tensor(3.0), torch.tensor(-2.0))
    torch.testing.assert_close(far, torch.tensor([1200.0, -800.0]))
    steep = log_interpolate_code4(torch.tensor([-0.5, 0.5], requires_grad=True), torch.tensor(9.0), torch.tensor(9.0))
    assert torch.isfinite(steep).all()
