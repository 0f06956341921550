"""Fields with exact divergences, the flow equation against closed forms, and the losses' optima."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.linalg import expm
from scipy.stats import kstest
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.diffusion import DiffusionConfig, DiffusionField, angle_nodes, draw_angles
from touchneedle.estimators.field_network import FieldNetwork, PotentialNetwork
from touchneedle.estimators.flow_ode import FlowOde, OdeConfig, integrate
from touchneedle.estimators.straight_path import StraightField, StraightPathConfig, straight_nodes

MEAN, WIDTH = 0.4, 0.3


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_network(kind: type) -> FieldNetwork | PotentialNetwork:
    network = kind(3, 2, 2, (7, 5)).double()
    for seed, parameter in enumerate(network.parameters()):
        parameter.data = gaussian(seed, *parameter.shape)
    return network


def each_jacobian(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Jacobian of every row, shape (n, d, d)."""
    return torch.stack([torch.autograd.functional.jacobian(lambda row: function(row[None])[0], row) for row in y])


@pytest.mark.parametrize("kind", [FieldNetwork, PotentialNetwork])
def test_divergence_is_the_trace_of_the_jacobian(kind: type) -> None:
    network = random_network(kind)
    y, time, code = gaussian(10, 6, 3), gaussian(11, 1, 2), network.encode(gaussian(12, 1, 2))
    value, divergence = network.with_divergence(y, time, code)
    jacobian = each_jacobian(lambda row: network(row, time, code), y)
    torch.testing.assert_close(value, network(y, time, code))
    torch.testing.assert_close(divergence, jacobian.diagonal(dim1=1, dim2=2).sum(-1))
    symmetric = torch.allclose(jacobian, jacobian.transpose(1, 2))
    assert symmetric == (kind is PotentialNetwork)


def test_a_potential_is_differentiated() -> None:
    network = random_network(PotentialNetwork)
    y, time, code = gaussian(12, 6, 3).requires_grad_(), gaussian(13, 6, 2), network.encode(gaussian(14, 6, 2))
    (gradient,) = torch.autograd.grad(network.potential(y, time, code).sum(), y)
    torch.testing.assert_close(network(y, time, code), -gradient)


def test_linear_flow_in_closed_form_at_fourth_order() -> None:
    matrix = 0.7 * gaussian(14, 3, 3)
    y = gaussian(15, 4, 3)
    exact = y @ torch.from_numpy(expm(matrix.numpy())).T
    expected = -0.5 * (exact**2 + math.log(2 * math.pi)).sum(-1) + matrix.trace()
    ode = FlowOde(OdeConfig(), lambda steps: [k / steps for k in range(steps + 1)])

    def field(state: Tensor, time: float) -> tuple[Tensor, Tensor]:
        return state @ matrix.T, matrix.trace().expand(len(state))

    errors = [float((ode.log_density(field, y, steps) - expected).abs().max()) for steps in (8, 16, 32)]
    assert errors[2] < 1e-6
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([16, 16], rel=0.2)
    back = integrate(lambda state, time: state @ matrix.T, exact, [1 - k / 32 for k in range(33)])
    torch.testing.assert_close(back, y, rtol=1e-5, atol=1e-6)


def test_steps_are_doubled_until_they_are_enough() -> None:
    def field(state: Tensor, time: float) -> tuple[Tensor, Tensor]:
        velocity = math.cos(20 * time) * state
        return velocity, torch.full((len(state),), math.cos(20 * time), dtype=state.dtype)

    y = gaussian(16, 100, 1)
    ode = FlowOde(OdeConfig(steps=1, tolerance=1e-3), straight_nodes)
    ode.settle(lambda steps: ode.log_density(field, y, steps))
    steps = int(ode.steps)
    change = ode.log_density(field, y, 2 * steps) - ode.log_density(field, y, steps)
    assert float(ode.error) == pytest.approx(float(change.square().mean().sqrt()), rel=1e-4)
    assert 4 <= steps <= 64
    assert float(ode.error) <= 1e-3
    assert ode.cost()["ode_evaluations"] == 4 * steps
    short = FlowOde(OdeConfig(steps=1, max_steps=4, tolerance=1e-3), straight_nodes)
    with pytest.raises(InputError, match="cannot be integrated.*between 4 and 8 steps"):
        short.settle(lambda steps: short.log_density(field, y, steps))
    with pytest.raises(InputError, match="change by nan"):
        short.settle(lambda steps: torch.full((3,), math.nan))


class GaussianDiffusion(FieldNetwork):
    """What a network must say for data N(MEAN, WIDTH^2): F / h, with w = 1 and so h = sin a."""

    def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        sin, cos = time[:, :1], time[:, 1:2]
        return (cos * (1 - WIDTH**2) * y - MEAN) / (sin**2 + (WIDTH * cos) ** 2)

    def with_divergence(self, y: Tensor, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = time[:, 0], time[:, 1]
        return self(y, time, code), (cos * (1 - WIDTH**2) / (sin**2 + (WIDTH * cos) ** 2)).expand(len(y))


class GaussianVelocity(FieldNetwork):
    """What a network must add to the velocity of normal data, for data N(MEAN, WIDTH^2) without smallest noise, at z = y / r."""

    def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        return self.with_divergence(y, time, code)[0]

    def with_divergence(self, y: Tensor, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        time = time[:, :1]
        width = (time**2 + (1 - time) ** 2).sqrt()
        slope = (WIDTH**2 * time - (1 - time)) / ((WIDTH * time) ** 2 + (1 - time) ** 2)
        of_normal = (2 * time - 1) / width**2
        return MEAN * (1 - slope * time) + (slope - of_normal) * width * y, ((slope - of_normal) * width)[:, 0].expand(len(y))


def gaussian_fields() -> dict[str, tuple[DiffusionField | StraightField, FlowOde, float]]:
    """Exact fields, their equations, and the width of the data after the smallest noise."""
    diffusion = DiffusionField(GaussianDiffusion(1, 3, 0, (1, 1)), DiffusionConfig(sigma_min=0.05, noises=1))
    straight = StraightField(1, 0, StraightPathConfig(sigma_min=0.0, noises=1))
    straight.network = GaussianVelocity(1, 3, 0, (1, 1))
    return {
        "diffusion": (diffusion.double().requires_grad_(False), FlowOde(OdeConfig(), lambda steps: angle_nodes(0.05, steps)), 0.05),
        "straight": (straight.double().requires_grad_(False), FlowOde(OdeConfig(), straight_nodes), 0.0),
    }


@pytest.mark.parametrize("name", ["diffusion", "straight"])
def test_density_and_samples_of_a_gaussian(name: str) -> None:
    field, ode, sigma_min = gaussian_fields()[name]
    ode.steps.fill_(64)
    angle = math.atan(sigma_min)
    mean, width = MEAN * math.cos(angle), math.hypot(WIDTH * math.cos(angle), math.sin(angle))
    y = mean + 1.5 * gaussian(17, 50, 1)
    none = y.new_zeros(len(y), 0)
    expected = -0.5 * ((y[:, 0] - mean) / width) ** 2 - math.log(width * math.sqrt(2 * math.pi))
    found = ode.log_density(lambda state, time: field.with_divergence(state, time, none), y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    drawn = ode.transport(lambda state, time: field(state, time, state.new_zeros(len(state), 0)), gaussian(18, 20_000, 1))
    assert kstest(((drawn[:, 0] - mean) / width).numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("name", ["diffusion", "straight"])
def test_the_loss_is_stationary_at_the_exact_field(name: str) -> None:
    """Its slope along any change of the field vanishes, and a wrong field is noticed."""
    field, _, _ = gaussian_fields()[name]
    exact, n = field.network, 100_000
    value, context = MEAN + WIDTH * gaussian(19, n, 1), torch.zeros(n, 0, dtype=torch.float64)

    class Moved(FieldNetwork):
        def __init__(self, direction: Callable[[Tensor, Tensor], Tensor], size: float) -> None:
            super().__init__(1, 3, 0, (1, 1))
            self.direction, self.size = direction, size

        def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
            return exact(y, time, code) + self.size * self.direction(y, time[:, :1])

    def slope(direction: Callable[[Tensor, Tensor], Tensor], around: float) -> tuple[float, float]:
        losses = []
        for size in (around + 0.5, around - 0.5):
            field.network = Moved(direction, size)
            losses.append(field.loss(value, context, torch.Generator().manual_seed(20)))
        each = losses[0] - losses[1]
        return float(each.mean()), float(each.std() / n**0.5)

    for direction in (lambda y, t: torch.ones_like(y), lambda y, t: y, lambda y, t: t * y**2, lambda y, t: (3 * y + t).sin()):
        value_there, error = slope(direction, 0.0)
        assert abs(value_there) < 4.5 * error
        away, error = slope(direction, 0.2)
        assert away > 4.5 * error


def test_score_over_normal_is_posterior_minus_prior() -> None:
    field, _, sigma_min = gaussian_fields()["diffusion"]
    angle = math.atan(sigma_min)
    y = gaussian(21, 20, 1)
    variance = (WIDTH * math.cos(angle)) ** 2 + math.sin(angle) ** 2
    expected = -(y - MEAN * math.cos(angle)) / variance + y
    torch.testing.assert_close(field.score_over_normal(y, angle, y.new_zeros(20, 0)), expected)


def test_angles_follow_their_process() -> None:
    generator = torch.Generator().manual_seed(22)
    exploding = draw_angles(5_000, DiffusionConfig(sde="ve", sigma_min=0.02, sigma_max=30.0), generator).tan().log()
    share = (exploding - math.log(0.02)) / math.log(30 / 0.02)
    assert kstest(share.numpy(), "uniform").pvalue > 1e-4
    preserving = draw_angles(5_000, DiffusionConfig(sde="vp", sigma_min=0.02, sigma_max=30.0), generator)
    # cos^2 = exp(-integral of beta), beta from 0.1 to 20 in unit time; the time that it takes is uniform.
    exponent = -2 * preserving.cos().log()
    time = ((0.1**2 + 2 * 19.9 * exponent).sqrt() - 0.1) / 19.9
    low, high = (((0.1**2 + 2 * 19.9 * math.log1p(sigma**2)) ** 0.5 - 0.1) / 19.9 for sigma in (0.02, 30.0))
    assert kstest(((time - low) / (high - low)).numpy(), "uniform").pvalue > 1e-4
    assert float(preserving.tan().min()) >= 0.02
    assert float(preserving.tan().max()) <= 30.0
