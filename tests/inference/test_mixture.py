"""Mixtures of processes: exact components give the exact likelihood, signed rates are guarded, fits agree with MINUIT alone."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from iminuit import Minuit
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference import Factor, Likelihood, Process, ProcessMixture, fit, fit_rate_model
from touchneedle.inference.mixture import mixture_log
from touchneedle.toys.base import Events, Feature, Parameter, ParameterSpace, Uniform, build_toy


@dataclass
class NoOptions:
    """No options."""


class Component(Estimator):
    """The exact density of one process of a toy."""

    Config = NoOptions
    capabilities = frozenset({"log_prob"})
    normalised = True

    def __init__(self, spec, log_density):
        super().__init__(spec, NoOptions())
        self.log_density = log_density
        self.double()

    def _log_ratio(self, x, theta):
        return self.log_density(x, theta) - self.log_density(x, self.nominal.expand_as(theta))

    def _log_prob(self, x, theta):
        return self.log_density(x, theta)


def mixture_of(toy, log_densities, **at):
    members = [Component(toy.spec, log_density) for log_density in log_densities]
    processes = [Process(name, (Factor(member, "log_prob", at),)) for name, member in zip(toy.spec.processes, members, strict=True)]
    parameters = ParameterSpace(tuple(p for p in toy.spec.parameters.parameters if p.name not in at))
    return ProcessMixture(parameters, processes, toy.rates)


def exact_mixture(toy):
    def component(k):
        return lambda x, theta: toy.log_prob_process(x, theta)[:, k]

    return mixture_of(toy, [component(k) for k in range(len(toy.spec.processes))])


def signed_components(toy, **at):
    """scipy-free normals of the plane, from the formula in the toy's docstring."""

    def component(width, is_target):
        def log_density(x, theta):
            scale = width * (0.05 * theta[:, 1] * is_target).exp()
            return -0.5 * x.square().sum(-1) / scale**2 - 2 * scale.log() - math.log(2 * math.pi)

        return log_density

    return mixture_of(toy, [component(2.5, 0), component(2.3, 0), component(2.0, 1), component(1.2, 1)], **at)


def observed(toy, theta, n, seed=0):
    theta = torch.tensor(theta, dtype=torch.float64)
    return toy.sample(theta.expand(n, -1), generator=torch.Generator().manual_seed(seed))


def random_points(toy, count=20):
    points = toy.spec.parameters.sample_prior(count, torch.Generator().manual_seed(5))
    return torch.minimum(torch.maximum(points, toy.spec.parameters.low), toy.spec.parameters.high)


@pytest.mark.parametrize("name", ["counting_and_shape", "mass_bump"])
def test_exact_components_give_the_exact_likelihood(name):
    """Signed event weights, to 1e-10 of ln L, and the gradient with it."""
    toy = build_toy(name)
    nominal = toy.spec.parameters.nominal
    events = observed(toy, nominal.tolist(), 500)
    events = events.with_weight(torch.where(torch.arange(500) % 7 == 0, -0.5, 1.1).double())
    mixture = exact_mixture(toy)
    likelihood = Likelihood(mixture, mixture.rates)
    for theta in random_points(toy):
        leaf = theta.clone().requires_grad_()
        total = toy.rates(leaf[None]).sum()
        exact = (events.weight * toy.log_prob(events.x, leaf)).sum() + events.weight.sum() * total.log() - total
        for column, parameter in enumerate(toy.spec.parameters.parameters):
            if parameter.constraint is not None:
                exact = exact - 0.5 * ((parameter.nominal - leaf[column]) / parameter.constraint.sigma) ** 2
        (slope,) = torch.autograd.grad(exact, leaf)
        value, gradient = likelihood.value_and_gradient(theta, events)
        assert value.item() == pytest.approx(exact.item(), rel=1e-10)
        assert torch.allclose(gradient, slope, rtol=1e-8, atol=1e-8)


def test_signed_components_give_the_signed_density():
    toy = build_toy("signed_mixture")
    mixture = signed_components(toy)
    x = 3 * torch.randn(2_000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for mu, nu in [(0.3, 1.0), (-0.9, -2.0), (1.0, 0.5)]:
        theta = torch.tensor([mu, nu], dtype=torch.float64)
        density = toy.density(x, theta)
        assert torch.equal(mixture.is_positive(x, theta), density > 0)
        good = density > 1e-4 * density.abs().max()
        log_p = mixture.relative_log_prob(x[good], theta)
        assert torch.allclose(log_p, density[good].log(), atol=1e-10)
        assert torch.allclose(mixture.ratio(x, theta), density / toy.density(x, toy.spec.parameters.nominal), rtol=1e-9)


def test_a_density_that_is_not_positive_is_refused_at_the_start_and_counted_in_the_result():
    toy = build_toy("signed_mixture")
    mixture = signed_components(toy)
    likelihood = Likelihood(mixture, mixture.rates)
    events = toy.observe(torch.tensor([0.2, 0.0], dtype=torch.float64).expand(1_000, -1), generator=torch.Generator().manual_seed(1))
    bad_start = torch.tensor([1.5, 0.0], dtype=torch.float64)
    bad = int((toy.density(events.x, bad_start) <= 0).sum())
    assert bad > 0
    assert likelihood.count_non_positive(bad_start, events) == bad
    with pytest.raises(InputError, match=f"at mu=1.5, target_scale=0 it is not at {bad} of 1000 events"):
        fit(likelihood, events, start=bad_start)
    # The penalty is finite there, and its slope leads back to smaller mu.
    value, gradient = likelihood.value_and_gradient(bad_start, events)
    assert value.isfinite()
    assert gradient[0] < 0
    result = fit(likelihood, events)
    assert result.valid
    assert result.non_positive == 0
    assert abs(result.theta[0] - 0.2) < 4 * result.sigma[0]
    assert (toy.density(events.x, result.theta) > 0).all()


def test_a_fit_that_ends_where_the_density_is_not_positive_is_not_valid():
    """One event of large negative weight where the target is negative drags mu there."""
    toy = build_toy("signed_mixture")
    events = toy.observe(torch.tensor([0.0, 0.0], dtype=torch.float64).expand(50, -1), generator=torch.Generator().manual_seed(1))
    x = torch.cat([events.x, torch.zeros(1, 2)])
    forced = Events(x=x, theta=torch.zeros(51, 1), weight=torch.cat([events.weight, torch.tensor([-40.0])]))
    mixture = signed_components(toy, target_scale=0.0)
    result = fit(Likelihood(mixture, mixture.rates), forced)
    assert not result.valid
    assert result.non_positive >= 1
    assert "not positive" in result.reason


def test_a_fit_agrees_with_an_independent_likelihood():
    """Signal plus background with a control region, by numpy and MINUIT's own numerical gradients."""
    toy = build_toy("counting_and_shape")
    events = observed(toy, [1.3, 1.1, 0.4], 1_000, seed=2)
    mixture = exact_mixture(toy)
    result = fit(Likelihood(mixture, mixture.rates), events)
    region, mass = events.x.double().numpy().T
    falling = 0.03 * np.exp(-0.03 * (mass - 100)) / (1 - np.exp(-0.03 * 60))

    def cost(mu, beta, nu):
        mean = 125 * (1 + 0.01 * nu)
        peak = stats.truncnorm.pdf(mass, (100 - mean) / 3, (160 - mean) / 3, mean, 3)
        signal, background = 400 * mu * 0.5 * np.exp(0.1 * nu), 400 * beta
        density = np.where(region == 1, background * falling, signal * peak + background * falling)
        return -np.log(density).sum() + signal + 2 * background + 0.5 * nu**2

    minuit = Minuit(cost, 1.0, 1.0, 0.0)
    minuit.errordef = Minuit.LIKELIHOOD
    minuit.tol = 1e-3
    minuit.migrad()
    minuit.hesse()
    assert minuit.valid
    assert result.valid
    assert np.allclose(result.theta.numpy(), np.array(minuit.values), atol=2e-3 * np.array(minuit.errors))
    assert np.allclose(result.sigma.numpy(), np.array(minuit.errors), rtol=2e-3)


def test_one_estimator_serves_several_processes():
    """The mixture of a mass bump from its own ratio at fraction 1 and 0, whose reference is the nominal mixture; rates as data."""
    toy = build_toy("mass_bump")
    oracle = build_estimator("oracle", toy.spec, truth=toy)
    parameters = ParameterSpace((Parameter("mu", "interest", 1.0, (0.0, 5.0), Uniform(0.0, 5.0)), *toy.spec.parameters.parameters[1:]))

    def rates(theta):
        return torch.stack([300 * theta[:, 0] * 1.1 ** theta[:, 1], torch.full_like(theta[:, 0], 700.0)], -1)

    processes = [Process(name, (Factor(oracle, at={"fraction": value}),)) for name, value in [("signal", 1.0), ("background", 0.0)]]
    mixture = ProcessMixture(parameters, processes, rates)
    events = observed(toy, [0.3, 0.0, 0.0], 400)
    theta = torch.tensor([1.4, 0.5, -0.3], dtype=torch.float64)
    fraction = 420 * 1.1**0.5 / (420 * 1.1**0.5 + 700)
    exact = toy.log_prob(events.x, torch.tensor([fraction, 0.5, -0.3], dtype=torch.float64)) - toy.log_prob(
        events.x, toy.spec.parameters.nominal
    )
    assert torch.allclose(mixture.relative_log_prob(events.x, theta), exact, atol=1e-10)
    assert len(mixture.members) == 1
    model = fit_rate_model(parameters, rates)
    assert torch.allclose(model.rates(theta[None]), rates(theta[None]), rtol=2e-3)
    # A mu that only moves rates is free down to its bound; what enters the oracle is free within its bounds too.
    assert mixture.fit_limits()[:, 0].tolist() == [0.0, 5.0]


def test_learned_members_limit_what_they_have_learned_and_nothing_else():
    toy = build_toy("mass_bump")
    learned = build_estimator("ratio_bce", toy.spec, hidden=(4,))
    parameters = ParameterSpace((Parameter("mu", "interest", 1.0, (0.0, 5.0), Uniform(0.0, 5.0)), *toy.spec.parameters.parameters))
    mixture = ProcessMixture(parameters, [Process("all", (Factor(learned),))], lambda theta: theta[:, :1])
    limits = mixture.fit_limits()
    assert limits[:, 0].tolist() == [0.0, 5.0]
    assert 0 < limits[0, 1] < 0.01


def test_logarithm_of_a_signed_sum():
    rates = torch.tensor([[2.0, -1.0], [1.0, -1.0], [1.0, -2.0], [0.0, 3.0]], dtype=torch.float64)
    logs = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [900.0, -500.0]], dtype=torch.float64)
    value = mixture_log(rates, logs)
    assert value[0] == 0
    assert value.isfinite().all()
    assert value[2] < value[1] < value[0]
    assert value[3] == pytest.approx(math.log(3) - 500, abs=1e-10)


def test_wrong_mixtures_are_refused_in_one_line():
    toy, other = build_toy("mass_bump"), build_toy("gaussian_shift")
    oracle = build_estimator("oracle", toy.spec, truth=toy)
    two = [Process("a", (Factor(oracle),)), Process("b", (Factor(oracle),))]
    few = ParameterSpace(toy.spec.parameters.parameters[:2])
    swapped = replace(toy.spec, features=(Feature("other"),))
    stranger = Component(swapped, lambda x, theta: theta[:, 0])
    for parameters, processes, message in [
        (few, two, "process a: its estimator depends on 'resolution'"),
        (toy.spec.parameters, two[:1] * 2, "expected each process once; got a, a"),
        (toy.spec.parameters, [], "at least one process"),
        (toy.spec.parameters, [Process("a", ())], "process a: expected at least one factor"),
        (toy.spec.parameters, [two[0], Process("b", (Factor(stranger),))], "process b: expected an estimator of the features mass"),
        (toy.spec.parameters, [Process("a", (Factor(oracle, at={"none": 1.0}),))], "no parameter 'none' to hold constant"),
        (toy.spec.parameters, two[:1], r"expected rates of 1 processes, shape \(1, 1\); got \(1, 2\)"),
    ]:
        with pytest.raises(InputError, match=message):
            ProcessMixture(parameters, processes, toy.rates)
    plain = build_estimator("counting", other.spec)
    with pytest.raises(InputError, match="has no log_prob"):
        ProcessMixture(other.spec.parameters, [Process("a", (Factor(plain, "log_prob"),))], other.rates)
