"""Quadrature inside densities: exact rules, and one evaluation per distinct theta with every row's derivatives."""

import math

import pytest
import torch

from touchneedle.toys import quadrature
from touchneedle.toys.quadrature import distinct_rows, gauss_legendre, once_per_row


def smooth(theta):
    return torch.exp(theta[:, 0] * theta[:, 1]).sin() + theta[:, 1] ** 3


def test_gauss_legendre_is_exact_for_polynomials():
    nodes, weights = gauss_legendre(4)
    for degree in range(8):
        assert (nodes**degree @ weights).item() == pytest.approx(1 / (degree + 1), rel=1e-14)
    assert abs((nodes**8 @ weights).item() - 1 / 9) > 1e-8


def test_distinct_rows():
    theta = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [2.0, 1.0]])
    rows, code = distinct_rows(theta)
    assert torch.equal(rows[code], theta)
    assert len(rows) == 3
    assert [len(part) for part in distinct_rows(theta[:0])] == [0, 0]


@pytest.mark.parametrize("repeats", [1, 4])
def test_values_gradients_and_hessians_are_those_of_every_row(monkeypatch, repeats):
    monkeypatch.setattr(quadrature, "ROWS_PER_CHUNK", 3)
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).repeat(repeats, 1)
    weight = torch.arange(1.0, len(points) + 1, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(once_per_row(smooth, points), smooth(points), rtol=1e-14)
    derivatives = []
    for function in (smooth, lambda theta: once_per_row(smooth, theta)):
        theta = points.clone().requires_grad_()
        value = function(theta)
        (gradient,) = torch.autograd.grad((weight * value).sum(), theta, create_graph=True)
        (second,) = torch.autograd.grad((weight * gradient[:, 0]).sum(), theta)
        derivatives.append((value, gradient, second))
    for expected, found in zip(*derivatives, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_one_evaluation_for_many_events():
    calls = []

    def counted(theta):
        calls.append(len(theta))
        return theta.square().sum(-1)

    theta = torch.tensor([0.5, math.pi], dtype=torch.float64).expand(1_000, -1).clone().requires_grad_()
    once_per_row(counted, theta).sum().backward()
    assert calls == [1]
    assert theta.grad is not None
    assert torch.equal(theta.grad, 2 * theta.detach())
