"""Rate models: every term is recognised, deviations are recorded, JSON keeps them."""

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from touchneedle.conf.errors import InputError
from touchneedle.inference.rate_fit import fit_rate_model
from touchneedle.inference.rates import RateModel
from touchneedle.toys.base import GaussianConstraint, Normal, Parameter, ParameterSpace, Uniform, build_toy

MU = Parameter("mu", "interest", 1.0, (0.0, 10.0), Uniform(0.1, 3.0))
NU = Parameter("nu", "nuisance", 0.0, (-5.0, 5.0), Normal(0.0, 1.0), GaussianConstraint(2.0))
SPACE = ParameterSpace((MU, NU))


def off_shell(theta):
    mu, nu = theta.unbind(-1)
    response = 1.1 ** (nu / 2)
    return torch.stack([20 * mu * response, -5 * mu.sqrt(), 7 * (mu - mu.sqrt()), 100 + 0 * mu, 3 * (1 - mu), 9 * (1 - mu.sqrt())], -1)


def test_terms_of_off_shell_physics_are_recognised():
    model = fit_rate_model(SPACE, off_shell)
    kinds = [process.terms[0].kind if process.terms else "1" for process in model.processes]
    assert kinds == ["mu", "sqrt(mu)", "mu-sqrt(mu)", "1", "1-mu", "1-sqrt(mu)"]
    assert [process.nominal_yield for process in model.processes] == pytest.approx([20, -5, 7, 100, 3, 9])
    assert [len(process.factors) for process in model.processes] == [1, 0, 0, 0, 0, 0]
    # Code 4 is a polynomial within one sigma, which an exponential response is not exactly.
    assert model.worst_deviation < 1e-4


def test_model_is_differentiable_and_equals_the_function():
    model = fit_rate_model(SPACE, off_shell)
    theta = torch.tensor([[0.5, 2.0], [2.0, -4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.allclose(model.rates(theta), off_shell(theta), rtol=1e-10)
    (mine,) = torch.autograd.grad(model.expected_events(theta).sum(), theta)
    (exact,) = torch.autograd.grad(off_shell(theta).sum(), theta)
    assert torch.allclose(mine, exact, rtol=1e-6)


def test_polynomials_and_what_is_beyond_them():
    quadratic = fit_rate_model(SPACE, lambda theta: 2 + theta[:, :1] + 3 * theta[:, :1] ** 2)
    (term,) = quadratic.processes[0].terms
    assert len(term.coefficients) == 3
    assert quadratic.worst_deviation < 1e-9
    wild = fit_rate_model(SPACE, lambda theta: 2 + torch.sin(5 * theta[:, :1]))
    assert wild.worst_deviation > 0.05


def test_interactions_of_parameters_are_polynomials_in_both():
    model = fit_rate_model(SPACE, lambda theta: 10 + theta[:, :1] * theta[:, 1:])
    assert model.worst_deviation < 1e-9
    assert model.processes[0].joint is not None
    theta = torch.tensor([[2.0, 3.0], [0.0, -5.0]], dtype=torch.float64, requires_grad=True)
    rates = model.rates(theta)
    assert torch.allclose(rates[:, 0], torch.tensor([16.0, 10.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(rates.sum(), theta)
    assert torch.allclose(gradient, torch.tensor([[3.0, 2.0], [-5.0, 0.0]], dtype=torch.float64))


def test_nuisances_that_interact_leave_the_term_in_mu_alone():
    """Interference whose size and phase are uncertain: sqrt(mu) times a function of both."""
    space = ParameterSpace((MU, NU, replace(NU, name="other")))
    model = fit_rate_model(space, lambda theta: theta[:, :1].sqrt() * (-10 + theta[:, 1:2] * theta[:, 2:]))
    (process,) = model.processes
    assert [term.kind for term in process.terms] == ["sqrt(mu)"]
    assert process.joint is not None
    assert process.joint.parameters == ("nu", "other")
    assert model.worst_deviation < 1e-9


def test_what_no_polynomial_is_is_recorded_as_deviation():
    model = fit_rate_model(SPACE, lambda theta: 10 + torch.sin(4 * theta[:, :1] * theta[:, 1:]))
    assert model.worst_deviation > 0.05


def test_a_free_yield_is_linear_in_its_nuisance():
    model = fit_rate_model(SPACE, lambda theta: 100 * theta[:, :1] * (1 + 0.3 * theta[:, 1:]))
    (mu, nu) = model.processes[0].terms
    assert (mu.kind, nu.kind) == ("mu", "polynomial")
    assert nu.coefficients[1] / nu.coefficients[0] == pytest.approx(0.3)
    assert model.worst_deviation < 1e-9


@pytest.mark.parametrize(
    ("toy", "worst"),
    [
        ("counting_and_shape", 1e-9),
        ("mixture_weights", 1e-9),
        ("eft_quadratic", 1e-4),
        ("energy_scale", 1e-4),
        ("mass_bump", 1e-9),
        ("offshell_interference", 5e-3),
    ],
)
def test_rates_of_toys_are_described(toy, worst):
    built = build_toy(toy)
    assert fit_rate_model(built.spec.parameters, built.rates).worst_deviation < worst


def test_json_round_trip():
    model = fit_rate_model(SPACE, off_shell)
    adapter = TypeAdapter(RateModel)
    assert adapter.validate_json(adapter.dump_json(model)) == model


def test_rates_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite"):
        fit_rate_model(SPACE, lambda theta: theta[:, :1] / 0)
    with pytest.raises(InputError, match="one sign"):
        fit_rate_model(SPACE, lambda theta: 1 - torch.sinh(2 * theta[:, 1:]))
