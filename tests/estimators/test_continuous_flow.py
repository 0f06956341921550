"""The continuous flow against the closed form of a linear field, and its choice of steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.check_subject import Subject
from touchneedle.conf.errors import InputError
from touchneedle.estimators.continuous_flow import ContinuousFlow
from touchneedle.estimators.zuko_cnf import ZukoCnf
from touchneedle.toys.base import ExactToy

MATRIX = torch.tensor([[0.3, -1.1], [0.7, -0.4]], dtype=torch.float64)
DRIVE = torch.tensor([[0.5], [-0.2]], dtype=torch.float64)


def linear(steps: int) -> ContinuousFlow:
    """dz/dt = MATRIX z + DRIVE c, without a term in t."""
    flow = ContinuousFlow(2, 1, (), steps).double()
    (weight, bias) = flow.field.ode.parameters()
    with torch.no_grad():
        weight.zero_()
        bias.zero_()
        weight[:, -3:] = torch.cat([MATRIX, DRIVE], 1)
    return flow


def events(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator).double(), torch.randn(n, 1, generator=generator).double()


def errors(steps: int) -> tuple[float, float]:
    """Largest errors of the noise and of its way back."""
    z, context = events(50)
    moved = torch.linalg.matrix_exp(MATRIX)
    shift = torch.linalg.solve(MATRIX, (moved - torch.eye(2).double()) @ DRIVE)
    exact = z @ moved.T + context @ shift.T
    flow = linear(steps)
    noise, log_det = flow.to_noise(z, context)
    torch.testing.assert_close(log_det.detach(), MATRIX.trace().expand(50))
    return float((noise - exact).detach().abs().max()), float((flow.from_noise(exact, context) - z).detach().abs().max())


def test_a_linear_field_is_integrated_to_fourth_order() -> None:
    for coarse, fine in zip(errors(8), errors(16), strict=True):
        assert 0 < coarse < 1e-4
        assert 14 < coarse / fine < 18


def test_the_divergence_is_that_of_the_field() -> None:
    z, context = events(6)
    flow, time = ContinuousFlow(2, 1, (8, 8), 3).double(), torch.tensor(0.3).double()
    jacobian = torch.autograd.functional.jacobian(lambda value: flow.field.f(time, value, context).sum(0), z)
    expected = torch.cat([flow.field.f(time, z, context), torch.einsum("knk->n", jacobian)[:, None]], 1)
    torch.testing.assert_close(flow._with_divergence(time, z, context), expected)


def test_steps_are_doubled_until_the_density_settles(location: ExactToy) -> None:
    subject = Subject("zuko_cnf", location, {"steps": 1, "tolerance": 1e-4})
    estimator = subject.prepared().double()
    assert isinstance(estimator, ZukoCnf)
    estimator.finish(subject.events)
    assert int(estimator.flow.steps) == 4
    assert estimator.cost() == {"ode_steps": 4, "ode_evaluations": 16}
    value = estimator.log_prob(subject.events.x, subject.events.theta)
    estimator.flow.steps *= 2
    assert (estimator.log_prob(subject.events.x, subject.events.theta) - value).abs().mean() < 1e-4


def test_an_integration_that_does_not_settle_is_an_error(location: ExactToy) -> None:
    subject = Subject("zuko_cnf", location, {"steps": 1, "tolerance": 1e-15})
    with pytest.raises(InputError, match=r"at 4 steps; it changed by .*: raise estimator.steps"):
        subject.prepared().finish(subject.events)
