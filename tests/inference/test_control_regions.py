"""Control regions: Poisson terms as scipy has them, and the on/off problem in closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import ControlRegions, Likelihood, fit, fit_rate_model, regions_of_models
from touchneedle.toys.base import (
    Events,
    Feature,
    LogNormalConstraint,
    Normal,
    Parameter,
    ParameterSpace,
    PoissonConstraint,
    ToySpec,
    Uniform,
)

TAU = 3.0


def parameters(constraint=None):
    signal = Parameter("signal", "interest", 20.0, (-50.0, 200.0), Uniform(-50.0, 200.0))
    background = Parameter("background", "nuisance", 50.0, (1.0, 400.0), Normal(50.0, 20.0), constraint)
    return ParameterSpace((signal, background))


def counting(space):
    """An experiment that counts: log_ratio is 0, all is in the rates."""
    return build_estimator("counting", ToySpec("on_off", "1", space, (Feature("x"),), ("signal", "background"))).double()


def events(n):
    return Events(torch.zeros(n, 1), torch.zeros(n, 2), torch.ones(n, dtype=torch.float64))


def on_off(observed, constraint=None):
    space = parameters(constraint)
    control = ControlRegions(("off",), lambda theta: TAU * theta[:, 1:2], torch.tensor([float(observed)], dtype=torch.float64))
    return Likelihood(counting(space), lambda theta: theta, control=control)


def test_terms_are_those_of_scipy():
    theta = torch.tensor([[1.0, 40.0], [30.0, 90.0]], dtype=torch.float64)

    def expected(theta):
        return torch.stack([theta[:, 1], 2 * theta[:, 0] + theta[:, 1], 0.1 * theta[:, 0]], -1)

    control = ControlRegions(("a", "b", "c"), expected, torch.tensor([60.0, 80.0, 0.0]))
    counts = control.observed.double().expand(2, -1)
    rates = expected(theta).numpy()
    exact = (stats.poisson.logpmf([60, 80, 0], rates) - stats.poisson.logpmf([60, 80, 0], [60, 80, 0])).sum(-1)
    assert np.allclose(control.log_prob(theta, counts).numpy(), exact, atol=1e-11)


def test_impossible_expectations_have_no_likelihood_and_finite_gradients():
    control = ControlRegions(("a",), lambda theta: theta, torch.tensor([3.0]))
    theta = torch.tensor([[-1.0], [0.0]], dtype=torch.float64, requires_grad=True)
    value = control.log_prob(theta, torch.tensor([[3.0], [0.0]], dtype=torch.float64))
    assert value.tolist() == [-math.inf, 0.0]
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("n_on", "n_off"), [(80, 140), (30, 150), (55, 1)])
def test_on_off_has_its_closed_form(n_on, n_off):
    """s = n_on - n_off / tau, b = n_off / tau, sigma_s^2 = n_on + n_off / tau^2 (Li and Ma 1983)."""
    likelihood = on_off(n_off)
    start = torch.tensor([20.0, 50.0 if n_off > 1 else 5.0])
    result = fit(likelihood, events(n_on), start=start)
    background = max(n_off / TAU, 1.0)
    sigma = math.sqrt(n_on + n_off / TAU**2)
    assert abs(result.theta[0] - (n_on - background)) < 0.01 * sigma
    assert abs(result.theta[1] - background) < 0.01 * math.sqrt(n_off) / TAU
    if n_off > 1:
        assert result.valid
        assert result.sigma[0] == pytest.approx(sigma, rel=2e-3)


def test_a_poisson_constraint_is_a_control_region():
    """The same likelihood twice: a count of an auxiliary measurement, and a bin."""
    likelihood = on_off(140)
    space = parameters(PoissonConstraint(TAU))
    constrained = Likelihood(counting(space), lambda theta: theta)
    measured = torch.tensor([math.nan, 140 / TAU], dtype=torch.float64)
    for theta in ([10.0, 40.0], [33.0, 60.0]):
        point = torch.tensor(theta, dtype=torch.float64)
        one, other = (lk.value_and_gradient(point, events(80), measured) for lk in (likelihood, constrained))
        assert one[0].item() == pytest.approx(other[0].item(), rel=1e-12)
        assert torch.allclose(one[1], other[1], rtol=1e-12)


def test_a_log_normal_background_is_profiled_inside_its_support():
    space = parameters(LogNormalConstraint(1.2))
    result = fit(Likelihood(counting(space), lambda theta: theta), events(80), auxiliary=torch.tensor([math.nan, 50.0]))
    assert result.valid
    assert torch.allclose(result.theta, torch.tensor([30.0, 50.0], dtype=torch.float64), atol=0.05)
    assert result.sigma[0] == pytest.approx(math.sqrt(80 + (50 * math.log(1.2)) ** 2), rel=0.01)


def test_rate_models_are_bins_and_pseudo_data_come_from_them():
    space = parameters()
    models = [fit_rate_model(space, lambda theta, slope=slope: theta * slope) for slope in (1.0, TAU)]
    control = regions_of_models(("near", "far"), models, torch.tensor([85.0, 205.0]), space)
    theta = torch.tensor([[25.0, 60.0]], dtype=torch.float64)
    assert torch.allclose(control.expected(theta), models[0].rates(theta).sum() * torch.tensor([[1.0, TAU]], dtype=torch.float64))
    n = 20_000
    drawn = control.sample(theta.expand(n, -1), torch.Generator().manual_seed(0))
    expected = control.expected(theta)[0]
    assert ((drawn.mean(0) - expected).abs() < 4 * (expected / n).sqrt()).all()
    assert ((drawn.var(0) / expected - 1).abs() < 4 * math.sqrt(2 / n)).all()
    asimov = control.with_observed(expected)
    assert asimov.log_prob(theta, asimov.observed[None]).item() == pytest.approx(0, abs=1e-12)


def test_wrong_regions_are_refused_in_one_line():
    space = parameters()
    model = fit_rate_model(space, lambda theta: theta)
    elsewhere = replace(model, names=("a", "b"))
    one = torch.ones(1)

    def with_rates(rates):
        return Likelihood(counting(space), control=ControlRegions(("a",), rates, one))

    for make, message in [
        (lambda: ControlRegions(("a",), lambda theta: theta, torch.ones(2)), "expected 1 counts, one a bin"),
        (lambda: ControlRegions(("a",), lambda theta: theta, -one), "control region a: expected a count of 0 or more; got -1"),
        (lambda: regions_of_models(("a", "b"), [model], torch.ones(2), space), "expected 2 rate models, one a bin; got 1"),
        (lambda: regions_of_models(("a",), [elsewhere], one, space), "control region a: expected a rate model of signal, background"),
        (lambda: with_rates(lambda theta: theta), r"shape \(1, 1\); got \(1, 2\)"),
        (
            lambda: Likelihood(counting(space), control=ControlRegions(("a",), lambda theta: -theta[:, :1], one)),
            "region a: .* positive rate",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            make()
