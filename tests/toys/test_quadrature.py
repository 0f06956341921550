<<<<<<< HEAD
"""Quadrature at distinct rows: the same values and slopes as row by row, with one evaluation per distinct row."""
=======
"""Quadrature inside densities: exact rules, and one evaluation per distinct theta with every row's derivatives."""
>>>>>>> t_amplitude

import math

import pytest
import torch

<<<<<<< HEAD
from touchneedle.toys.quadrature import CHUNK, at_distinct_rows, gauss_legendre
from touchneedle.toys.rejection import draw_by_rejection


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gauss_legendre_is_exact_for_polynomials():
    nodes, weights = gauss_legendre(10)
    for degree in range(20):
        assert (weights @ nodes**degree).item() == pytest.approx((1 + (-1) ** degree) / (degree + 1), abs=1e-14)


@pytest.mark.parametrize("n_distinct", [1, 7, 1_000])
def test_each_distinct_row_is_evaluated_once(n_distinct):
    distinct = torch.randn(n_distinct, 3, generator=generator(), dtype=torch.float64)
    theta = distinct[torch.randint(n_distinct, (5_000,), generator=generator(1))].requires_grad_()
    seen = []

    def function(rows):
        seen.append(len(rows))
        return rows[:, 0].exp() * rows[:, 1] + rows[:, 2] ** 2

    value = at_distinct_rows(function, theta)
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    assert seen == [len(theta.unique(dim=0))]
    assert torch.allclose(value, function(theta), rtol=1e-14)
    assert torch.allclose(gradient, torch.stack([theta[:, 0].exp() * theta[:, 1], theta[:, 0].exp(), 2 * theta[:, 2]], -1))


def test_many_rows_come_in_chunks_and_none_is_no_error():
    theta = torch.rand(2 * CHUNK + 5, 1, generator=generator(), dtype=torch.float64)
    seen = []
    assert torch.equal(at_distinct_rows(lambda rows: seen.append(len(rows)) or rows[:, 0], theta), theta[:, 0])
    assert max(seen) <= CHUNK
    assert at_distinct_rows(lambda rows: rows[:, 0], theta[:0]).shape == (0,)


def test_rejection_draws_the_density_of_each_row():
    """Density proportional to x^k on [0, 2] x [-1, 0]: E[x] = 2 (k + 1) / (k + 2), and the second feature is flat."""
    power = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).repeat(20_000).unsqueeze(-1)
    x = draw_by_rejection(lambda x, rows: (x[:, 0] / 2) ** rows[:, 0], (0.0, -1.0), (2.0, 0.0), power, generator())
    for k in (0, 1, 4):
        first, second = x[power[:, 0] == k].T
        variance = 4 * ((k + 1) / (k + 3) - ((k + 1) / (k + 2)) ** 2)
        assert abs(first.mean().item() - 2 * (k + 1) / (k + 2)) < 4 * math.sqrt(variance / 20_000)
        assert abs(second.mean().item() + 0.5) < 4 * math.sqrt(1 / 12 / 20_000)
        assert (first.min() >= 0) & (first.max() <= 2) & (second.min() >= -1) & (second.max() <= 0)
=======
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
>>>>>>> t_amplitude
