"""The training's share in the error of a fit: closed form, refits, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.network_error import network_error
from touchneedle.toys.base import Events, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec

EDGES = (-10.0, 10.0)
MU = Parameter("mu", "interest", 0.0, EDGES, Normal(0.0, 1.0))
NU = Parameter("nu", "nuisance", 0.0, EDGES, Normal(0.0, 3.0), GaussianConstraint(1.0))
SPEC = ToySpec("plane", "1", ParameterSpace((MU, NU)), (Feature("a"), Feature("b")), ("all",))
RESPONSE = torch.tensor([[1.0, 0.5], [0.0, 0.2]], dtype=torch.float64)
# Errors of the response of feature a to mu, and of b to nu: the modes are linear in theta, so that a refit is linear in them.
ERRORS = torch.tensor([0.02, 0.05], dtype=torch.float64)


class Uncertain(Estimator):
    """x ~ N(R theta, 1) with log_ratio off by z . (e_1 a mu, e_2 b nu), and a normalisation of its own."""

    def __init__(self, z: Tensor | None = None, drift: float = 0.0) -> None:
        super().__init__(SPEC, None)
        self.z = torch.zeros(2, dtype=torch.float64) if z is None else z
        self.drift = drift

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        centre = theta @ RESPONSE.T
        return (x * centre).sum(-1) - 0.5 * centre.square().sum(-1) + (self.log_ratio_modes(x, theta) @ self.z)

    def log_ratio_modes(self, x: Tensor, theta: Tensor) -> Tensor:
        return ERRORS * x.double() * theta

    def log_normalisation(self, theta: Tensor) -> Tensor:
        return self.log_normalisation_modes(theta) @ self.z + self.drift * theta[:, 0].square()

    def log_normalisation_modes(self, theta: Tensor) -> Tensor:
        return 0.5 * ERRORS * theta if self.drift else torch.zeros_like(theta)


def fitted(estimator: Estimator, events: Events) -> FitResult:
    return fit(Likelihood(estimator.double()), events, asimov=True)


def data(n: int = 400) -> Events:
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([0.3, 1.0], dtype=torch.float64).expand(n, -1)
    x = theta @ RESPONSE.T + torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return Events(x, theta, 0.5 + torch.rand(n, generator=generator, dtype=torch.float64))


def test_closed_form_of_a_linear_problem() -> None:
    events = data()
    estimator = Uncertain()
    result = fitted(estimator, events)
    total = events.weight.sum()
    inverse = torch.linalg.inv(total * RESPONSE.T @ RESPONSE + torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)))
    slopes = torch.diag(ERRORS * (events.weight @ events.x))
    expected = inverse @ slopes @ slopes.T @ inverse
    error = network_error(Likelihood(estimator), events, result)
    torch.testing.assert_close(error.covariance, expected, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(error.sigma, expected.diagonal().sqrt(), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(error.total_sigma, (inverse + expected).diagonal().sqrt(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("drift", [0.0, 0.01])
def test_the_error_is_what_refits_with_changed_estimators_say(drift: float) -> None:
    """By central differences along each mode, with and without a normalisation."""
    events = data()
    result = fitted(Uncertain(drift=drift), events)
    error = network_error(Likelihood(Uncertain(drift=drift)), events, result)
    shifts = []
    for k in range(2):
        z = 0.05 * torch.eye(2, dtype=torch.float64)[k]
        up, down = (fitted(Uncertain(side * z, drift), events).theta for side in (1, -1))
        shifts.append((up - down) / 0.1)
    moved = torch.stack(shifts, 1)
    torch.testing.assert_close(error.covariance, moved @ moved.T, rtol=0.02, atol=1e-6)


def test_estimators_that_do_not_know_their_error_are_refused() -> None:
    events = data()
    plain = build_estimator("best_gaussian", SPEC)
    plain.prepare(events)
    result = fitted(plain, events)
    with pytest.raises(InputError, match="log_ratio_modes"):
        network_error(Likelihood(plain), events, result)
    broken = FitResult(**{**result.__dict__, "valid": False, "reason": "no convergence", "value": math.nan})
    with pytest.raises(InputError, match="valid fit"):
        network_error(Likelihood(Uncertain()), events, broken)
