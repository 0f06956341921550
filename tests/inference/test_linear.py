"""Linear estimators: sums instead of events, the same numbers as event by event, closed forms with many parameters."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.ensemble import AveragedEnsemble, Ensemble
from touchneedle.inference import Factor, Likelihood, Process, ProcessMixture, fit
from touchneedle.inference.likelihood import weighted_objective
from touchneedle.inference.linear import LinearObjective
from touchneedle.inference.mixture_cache import MixtureObjective, event_rows, keep_rows
from touchneedle.toys.base import Events, GaussianConstraint, Normal, Parameter, ParameterSpace, Uniform, build_toy

ROW = torch.zeros(1, dtype=torch.int64)


def nuisances_only(toy):
    """The spec of one process: what was of interest is a nuisance without constraint, so that the network sees x alone."""
    space = ParameterSpace(tuple(replace(parameter, kind="nuisance") for parameter in toy.spec.parameters.parameters))
    return replace(toy.spec, parameters=space)


def shaken(name, spec, seed=0, **options):
    """An estimator whose weights are all random, standardisation and reference events from a normal sample."""
    generator = torch.Generator().manual_seed(seed)
    estimator = build_estimator(name, spec, **options)
    n = 400
    theta = spec.parameters.sample_prior(n, generator)
    estimator.prepare(Events(torch.randn(n, spec.x_dim, generator=generator), theta, torch.ones(n, dtype=torch.float64)))
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[-1]))
    return estimator.double()


SPEC = nuisances_only(build_toy("many_nuisances"))
LINEAR = {
    "ratio_parametric": lambda: shaken("ratio_parametric", SPEC, hidden=(16, 8), degree=3),
    "event_embedding": lambda: shaken("event_embedding", SPEC, hidden=(16,), dimensions=3),
    "softmax": lambda: shaken("event_embedding", SPEC, hidden=(16,), kind="softmax"),
    "ensemble": lambda: Ensemble([shaken("ratio_parametric", SPEC, seed, hidden=(8,)) for seed in (1, 2, 3)]).double(),
}


def some_events(spec, n=300, seed=4):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, generator=generator, dtype=torch.float64)
    return Events(torch.randn(n, spec.x_dim, generator=generator), spec.parameters.nominal.expand(n, -1), weight)


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_terms_give_the_ratio(kind):
    estimator = LINEAR[kind]()
    events, theta = some_events(SPEC), SPEC.parameters.sample_prior(7, torch.Generator().manual_seed(0))
    product = estimator.linear_terms(events.x) @ estimator.linear_coefficients(theta).T
    pairs = [estimator.log_ratio(events.x, point) for point in theta]
    assert estimator.linear
    assert torch.allclose(product, torch.stack(pairs, 1), atol=1e-12)
    assert torch.allclose(estimator.log_ratio_grid(events.x, theta), product, atol=1e-12)


@pytest.mark.parametrize("kind", LINEAR)
def test_sums_are_the_events(kind):
    """ln L up to its constant, and the gradient, with signed weights."""
    likelihood = Likelihood(LINEAR[kind]())
    events = some_events(SPEC)
    fast = likelihood.objective(events)
    slow = weighted_objective(likelihood.estimator, events, fast.data, fast.terms)
    assert isinstance(fast, LinearObjective)
    theta = SPEC.parameters.sample_prior(5, torch.Generator().manual_seed(1))
    values, gradients = zip(*[objective(point[None], ROW) for objective in (fast, slow) for point in theta], strict=True)
    values, gradients = torch.cat(values).reshape(2, 5), torch.cat(gradients).reshape(2, 5, -1)
    assert torch.allclose(values[0] - values[0, 0], values[1] - values[1, 0], rtol=1e-10)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_what_sees_a_parameter_of_interest_or_averages_likelihoods_is_not_linear():
    toy = build_toy("many_nuisances")
    estimator = build_estimator("ratio_parametric", toy.spec)
    assert not estimator.linear
    assert not AveragedEnsemble([LINEAR["ratio_parametric"]()]).linear
    with pytest.raises(InputError, match="has no linear terms"):
        build_estimator("ratio_bce", toy.spec).linear_terms(torch.zeros(1, 4))


def exact_parametric(toy):
    """ratio_parametric with the exact coefficients of a Gaussian whose mean is linear in theta: log r = x . R nu - |R nu|^2 / 2."""
    spec = nuisances_only(toy)
    estimator = build_estimator("ratio_parametric", spec, hidden=(), normalise="none").double()
    p = len(spec.parameters)
    response = toy._response.double()
    last, gram = estimator.network[-1], response @ response.T
    first, second = torch.triu_indices(p, p)
    square = -gram[first, second] * torch.where(first == second, 0.5, 1.0)
    with torch.no_grad():
        last.weight.zero_()
        last.weight[1 : p + 1] = response
        last.bias.copy_(torch.cat([torch.zeros(p + 1, dtype=torch.float64), square]))
    return estimator


@pytest.mark.parametrize(("nuisances", "n"), [(3, 2_000), (20, 20_000)])
def test_a_fit_of_many_nuisances_has_its_closed_form(nuisances, n):
    """Weighted events of a linear Gaussian, auxiliary measurements off centre: generalised least squares."""
    toy = build_toy("many_nuisances", nuisances=nuisances, epsilon=0.0, a=0.1)
    estimator = exact_parametric(toy)
    generator = torch.Generator().manual_seed(6)
    events = toy.sample(toy.spec.parameters.nominal.expand(n, -1), generator=generator)
    events = events.with_weight(0.5 + torch.rand(n, generator=generator, dtype=torch.float64))
    measured = 0.3 * torch.randn(nuisances + 1, generator=generator, dtype=torch.float64)
    result = fit(Likelihood(estimator), events, auxiliary=measured)
    response = toy._response.double()
    constraint = torch.ones(nuisances + 1, dtype=torch.float64)
    constraint[0] = 0
    hessian = events.weight.sum() * response @ response.T + torch.diag(constraint)
    best = torch.linalg.solve(hessian, response @ (events.weight @ events.x.double()) + constraint * measured)
    sigma = torch.linalg.inv(hessian).diagonal().sqrt()
    assert result.valid, result.reason
    assert ((result.theta - best).abs() < 0.02 * sigma).all()
    assert torch.allclose(result.inverse_hessian.diagonal().sqrt(), sigma, rtol=1e-6)


def test_normalisation_of_many_parameters_is_expanded_around_the_fit():
    """A planted drift of the ratio, quadratic with cross terms, is found from gradients and does not bias the fit."""
    toy = build_toy("many_nuisances", nuisances=10, epsilon=0.0, a=0.3)
    estimator = exact_parametric(toy)
    events = toy.sample(toy.spec.parameters.nominal.expand(1_000, -1), generator=torch.Generator().manual_seed(2))
    clean = fit(Likelihood(estimator), events)
    bend = -0.05 * torch.ones(11, 11, dtype=torch.float64)

    def drift(theta):
        theta = theta.double()
        return 0.1 * theta[:, 0] + 0.5 * torch.einsum("mi,ij,mj->m", theta, bend, theta)

    class Drifting(type(estimator)):
        def linear_coefficients(self, theta):
            values = super().linear_coefficients(theta)
            values[:, -1] += drift(theta)
            return values

        def log_normalisation(self, theta):
            return drift(theta)

    estimator.__class__ = Drifting
    result = fit(Likelihood(estimator), events)
    assert result.valid
    assert result.normalisation.residual < 1e-6
    assert ((result.theta - clean.theta).abs() < 0.02 * clean.sigma).all()
    assert torch.allclose(result.sigma, clean.sigma, rtol=1e-3)


def cacheable_mixture():
    """Two processes that share a classifier and have ratios of their own, one of them normalised."""
    nu = tuple(Parameter(f"nu_{k}", "nuisance", 0.0, (-9.0, 9.0), Normal(0.0, 1.0), GaussianConstraint(1.0)) for k in (1, 2))
    which = Parameter("which", "interest", 0.0, (0.0, 1.0), Uniform(0.0, 1.0))
    toy = build_toy("many_nuisances")
    classifier = shaken("ratio_bce", replace(toy.spec, parameters=ParameterSpace((which,))), 7, hidden=(8,))
    one = shaken("ratio_parametric", replace(toy.spec, parameters=ParameterSpace(nu)), 8, hidden=(8,))
    other = shaken("event_embedding", replace(toy.spec, parameters=ParameterSpace(nu[1:])), 9, hidden=(8,))
    mu = Parameter("mu", "interest", 1.0, (0.01, 5.0), Uniform(0.01, 5.0))
    processes = [
        Process("signal", (Factor(classifier, at={"which": 1.0}), Factor(one))),
        Process("interference", (Factor(classifier, at={"which": 0.3}), Factor(one), Factor(other))),
        Process("background", (Factor(classifier, at={"which": 0.0}), Factor(other, normalisation=lambda theta: 0.1 * theta.sum(-1)))),
    ]

    def rates(theta):
        root = theta[:, 0].sqrt()
        return torch.stack([80 * (theta[:, 0] - root), 80 * root * 1.1 ** theta[:, 1], 300 * torch.ones_like(root)], -1)

    return ProcessMixture(ParameterSpace((mu, *nu)), processes, rates)


@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_cached_mixtures_are_the_mixture(memory_limit):
    """Value and gradient as event by event, in memory and spilled to a file."""
    mixture = cacheable_mixture()
    likelihood = Likelihood(mixture, mixture.rates)
    events = some_events(mixture.spec)
    events = events.with_weight(events.weight.abs() - 0.2)
    found = likelihood.objective(events)
    assert isinstance(found, MixtureObjective)
    fast = replace(found, kept=keep_rows(mixture, events, 128, memory_limit), chunk=128)
    slow = weighted_objective(mixture, events, found.data, found.terms)
    assert torch.equal(fast.kept.rows, event_rows(mixture, events.x))
    for theta in torch.tensor([[1.0, 0.0, 0.0], [0.4, 1.0, -0.7], [3.0, -0.5, 2.0]], dtype=torch.float64):
        (value, gradient), (exact, slope) = (objective(theta[None], ROW) for objective in (fast, slow))
        assert value.item() == pytest.approx(exact.item(), rel=1e-11)
        assert torch.allclose(gradient, slope, rtol=1e-9, atol=1e-9)
        assert torch.allclose(fast.curvature(theta[None], ROW), slow.curvature(theta[None], ROW), rtol=1e-8, atol=1e-8)


def test_events_are_seen_again_only_if_something_changed(monkeypatch):
    """A refit with other auxiliary measurements does not look at the events; changed weights, events or networks are looked at."""
    estimator, events = LINEAR["ratio_parametric"](), some_events(SPEC)
    likelihood = Likelihood(estimator)
    looks = []
    monkeypatch.setattr(type(estimator), "linear_terms", lambda self, x: looks.append(len(x)) or super(type(self), self).linear_terms(x))

    def sums(data):
        return likelihood.normalised_by(None).objective(data, SPEC.parameters.nominal + 0.1).sums

    first = sums(events)
    assert torch.equal(sums(events), first)
    assert looks == [300]
    other = events.with_weight(2 * events.weight)
    assert torch.allclose(sums(other), 2 * first)
    assert torch.allclose(sums(events), first)
    events.weight[0] += 1.0
    changed = sums(events)
    assert not torch.equal(changed, first)
    with torch.no_grad():
        estimator.network[0].bias += 0.5
    assert not torch.equal(sums(events), changed)
    assert len(looks) == 5
    assert torch.equal(copy.deepcopy(likelihood).objective(events).sums, sums(events))


def test_a_mixture_that_moves_a_network_is_not_cached():
    mixture = cacheable_mixture()
    factor = mixture.processes[0].factors[0]
    moving = ProcessMixture(
        ParameterSpace((*mixture.spec.parameters.parameters, *factor.estimator.spec.parameters.parameters)),
        [Process("all", (Factor(copy.deepcopy(factor.estimator)),))],
        lambda theta: theta[:, :1],
    )
    assert not isinstance(Likelihood(moving).objective(some_events(moving.spec)), MixtureObjective)
