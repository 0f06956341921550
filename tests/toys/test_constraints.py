"""Constraints of every kind: likelihoods as scipy has them, redrawn measurements, JSON, and what cannot be."""

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import (
    Feature,
    GaussianConstraint,
    LogNormalConstraint,
    Normal,
    Parameter,
    ParameterSpace,
    PoissonConstraint,
    ToySpec,
    Uniform,
)

VALUES = torch.tensor([0.4, 0.9, 1.0, 1.7, 3.0], dtype=torch.float64)
KINDS = {
    "gaussian": (GaussianConstraint(0.3), 1.1, lambda t, v: stats.norm.logpdf(t, v, 0.3)),
    "log_normal": (LogNormalConstraint(1.25), 1.1, lambda t, v: stats.lognorm.logpdf(t, math.log(1.25), scale=v)),
    "poisson": (PoissonConstraint(20.0), 1.1, lambda t, v: stats.poisson.logpmf(round(20 * t), 20 * v)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_that_of_scipy_less_its_maximum(kind):
    constraint, measured, exact = KINDS[kind]
    t = torch.full_like(VALUES, measured)
    wanted = exact(measured, VALUES.numpy()) - exact(measured, measured)
    assert constraint.kind == kind
    assert np.allclose(constraint.log_prob(t, VALUES).numpy(), wanted, atol=1e-12)
    assert constraint.log_prob(t[:1], t[:1]).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_measurements_are_redrawn_from_the_likelihood(kind):
    """Kolmogorov-Smirnov against scipy where continuous; mean and variance of the count in units of their errors."""
    constraint, _, _ = KINDS[kind]
    n, truth = 40_000, 0.8
    drawn = constraint.sample(torch.full((n,), truth, dtype=torch.float64), torch.Generator().manual_seed(1)).numpy()
    if kind == "poisson":
        count = 20 * drawn
        assert np.array_equal(count, count.round())
        assert abs(count.mean() - 16) < 4 * math.sqrt(16 / n)
        assert abs(count.var() - 16) < 4 * math.sqrt((16 + 2 * 16**2) / n)
        return
    exact = stats.norm(truth, 0.3) if kind == "gaussian" else stats.lognorm(math.log(1.25), scale=truth)
    assert stats.kstest(drawn, exact.cdf).pvalue > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_standard_error_is_that_of_the_fisher_information(kind):
    constraint, _, _ = KINDS[kind]
    value = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(constraint.log_prob(value.detach(), value), value, create_graph=True)
    (bend,) = torch.autograd.grad(slope, value)
    assert constraint.standard_error(1.3) == pytest.approx(float(-bend) ** -0.5, rel=1e-12)
    low, high = constraint.interval(1.3)
    assert low < 1.3 < high


@pytest.mark.parametrize("constraint", [LogNormalConstraint(1.2), PoissonConstraint(5.0)])
def test_at_and_below_zero_nothing_is_allowed_and_gradients_stay_finite(constraint):
    value = torch.tensor([-0.5, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
    log_prob = constraint.log_prob(torch.ones(3, dtype=torch.float64), value)
    (gradient,) = torch.autograd.grad(log_prob.sum(), value)
    assert log_prob[:2].tolist() == [-math.inf, -math.inf]
    assert gradient.isfinite().all()


def test_nothing_counted_allows_a_rate_of_zero():
    """n = 0: ln C = -tau value, whose maximum is on the bound, with its slope."""
    value = torch.tensor([0.0, 0.5], dtype=torch.float64, requires_grad=True)
    log_prob = PoissonConstraint(4.0).log_prob(torch.zeros(2, dtype=torch.float64), value)
    assert log_prob.tolist() == [0.0, -2.0]
    (gradient,) = torch.autograd.grad(log_prob[1], value)
    assert gradient[1] == -4


def test_every_kind_survives_json_in_a_spec():
    parameters = [Parameter("free", "nuisance", 1.0, (0.0, 9.0), Uniform(0.0, 9.0))]
    for name, (constraint, _, _) in KINDS.items():
        parameters.append(Parameter(name, "nuisance", 1.0, (0.0, 9.0), Normal(1.0, 1.0), constraint))
    spec = ToySpec("any", "1", ParameterSpace(tuple(parameters)), (Feature("x"),), ("all",))
    adapter = TypeAdapter(ToySpec)
    assert adapter.validate_json(adapter.dump_json(spec)) == spec


def test_files_from_before_the_other_kinds_still_load():
    text = '{"name":"nu","kind":"nuisance","nominal":0.0,"bounds":[-5.0,5.0],"prior":{"mean":0.0,"std":2.0,"kind":"normal"},'
    text += '"constraint":{"sigma":1.0,"kind":"gaussian"},"anchors":null,"unit":"","latex":""}'
    assert TypeAdapter(Parameter).validate_json(text).constraint == GaussianConstraint(1.0)
    with pytest.raises(ValidationError, match="gaussian.*log_normal.*poisson"):
        TypeAdapter(Parameter).validate_json(text.replace("gaussian", "cauchy"))


def test_anchors_are_one_sigma_of_the_constraint():
    def anchors(constraint):
        return Parameter("nu", "nuisance", 2.0, (0.0, 9.0), Normal(2.0, 1.0), constraint).template_anchors

    assert anchors(None) == (1.0, 3.0)
    assert anchors(LogNormalConstraint(2.0)) == (1.0, 4.0)
    assert anchors(PoissonConstraint(0.5)) == (0.0, 4.0)


@pytest.mark.parametrize("make", [lambda: GaussianConstraint(0.0), lambda: LogNormalConstraint(1.0), lambda: PoissonConstraint(math.nan)])
def test_impossible_constraints_are_refused(make):
    with pytest.raises(InputError, match="expected a finite number above"):
        make()


def test_a_positive_constraint_needs_a_positive_nominal_value():
    with pytest.raises(InputError, match="parameter nu: expected a nominal value above 0"):
        Parameter("nu", "nuisance", 0.0, (0.0, 9.0), Normal(0.0, 1.0), LogNormalConstraint(1.2))
