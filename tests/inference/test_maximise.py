"""The batched maximiser on problems with known answers."""

import torch

from touchneedle.inference.maximise import Region, bfgs_update, covariance_of, difference_curvature, maximise, positive_part

INF = float("inf")


def region(p, low=-INF, high=INF):
    return Region(torch.full((p,), low).double(), torch.full((p,), high).double(), torch.ones(p, dtype=torch.bool))


def rosenbrock(theta, rows):
    """Minus Rosenbrock's function with a valley that differs by problem; maximum (a, a^2), a = 1 + rows / 10."""
    a = 1 + rows / 10
    theta = theta.detach().requires_grad_()
    value = -((a - theta[:, 0]) ** 2) - 10 * (theta[:, 1] - theta[:, 0] ** 2) ** 2
    return value.detach(), torch.autograd.grad(value.sum(), theta)[0]


def exact_curvature(theta, rows):
    x, y = theta.unbind(-1)
    cross = -40 * x
    return torch.stack([torch.stack([2 + 120 * x**2 - 40 * y, cross], -1), torch.stack([cross, torch.full_like(x, 20.0)], -1)], -2)


def test_bfgs_and_newton_find_every_maximum():
    start = torch.zeros(5, 2, dtype=torch.float64)
    a = 1 + torch.arange(5) / 10
    for newton in (None, exact_curvature):
        maxima = maximise(rosenbrock, start, region(2), torch.eye(2, dtype=torch.float64), newton=newton, iterations=200)
        assert maxima.converged.all()
        assert torch.allclose(maxima.theta, torch.stack([a, a**2], -1).double(), atol=1e-3)


def test_bounds_hold_and_the_rest_adapts():
    maxima = maximise(
        rosenbrock, torch.zeros(3, 2, dtype=torch.float64), region(2, -0.5, 0.5), torch.eye(2, dtype=torch.float64), iterations=200
    )
    assert maxima.converged.all()
    assert torch.allclose(maxima.theta, torch.tensor([[0.5, 0.25]], dtype=torch.float64).expand(3, 2), atol=1e-3)
    assert (maxima.theta <= 0.5).all()


def test_fixed_coordinates_do_not_move():
    fixed = Region(torch.full((2,), -INF), torch.full((2,), INF), torch.tensor([False, True]))
    maxima = maximise(rosenbrock, torch.full((2, 2), 0.3, dtype=torch.float64), fixed, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(maxima.theta, torch.tensor([[0.3, 0.09]], dtype=torch.float64).expand(2, 2), atol=1e-4)


def test_not_a_number_is_reported_not_raised():
    def broken(theta, rows):
        return torch.full((len(theta),), torch.nan, dtype=torch.float64), torch.full_like(theta, torch.nan)

    maxima = maximise(broken, torch.zeros(2, 2, dtype=torch.float64), region(2), torch.eye(2, dtype=torch.float64))
    assert not maxima.converged.any()


def test_unbounded_cubic_does_not_converge():
    def cubic(theta, rows):
        return theta[:, 0] ** 3, 3 * theta**2

    maxima = maximise(cubic, torch.ones(1, 1, dtype=torch.float64), region(1), torch.eye(1, dtype=torch.float64), iterations=20)
    assert not maxima.converged.any()


def test_difference_curvature_matches_the_exact_one():
    theta = torch.tensor([[0.2, 0.4], [1.0, 1.2]], dtype=torch.float64)
    found = difference_curvature(rosenbrock, theta, torch.arange(2), torch.tensor([1e-3, 1e-3]), region(2))
    assert torch.allclose(found, exact_curvature(theta, torch.arange(2)), atol=1e-5)


def test_bfgs_update_satisfies_the_secant_equation():
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    bent = step + 0.1 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    updated = bfgs_update(torch.eye(3, dtype=torch.float64).expand(4, 3, 3), step, bent, torch.ones(4, 3, dtype=torch.float64))
    assert torch.allclose((updated @ step[..., None]).squeeze(-1), bent, atol=1e-10)


def test_covariance_of_an_indefinite_curvature_is_missing():
    curvature = torch.stack([torch.diag(torch.tensor([4.0, 1e-6])), torch.diag(torch.tensor([1.0, -1.0]))]).double()
    covariance = covariance_of(curvature)
    assert torch.allclose(covariance[0], torch.diag(torch.tensor([0.25, 1e6]).double()))
    assert covariance[1].isnan().all()
    assert (torch.linalg.eigvalsh(positive_part(curvature, torch.ones(2, 2).double())) > 0).all()
