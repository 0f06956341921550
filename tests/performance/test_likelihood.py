"""Fits of many events with many nuisances: sums of a linear estimator against event by event, at sizes of an analysis."""

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference import Factor, FitResult, Likelihood, Process, ProcessMixture, fit
from touchneedle.inference.fittable import Objective
from touchneedle.inference.likelihood import weighted_objective
from touchneedle.inference.minuit import Found, migrad
from touchneedle.inference.terms import fit_limits
from touchneedle.toys.base import Events, ParameterSpace, Toy, build_toy

ROW = torch.zeros(1, dtype=torch.int64)


def gaussian(nuisances: int) -> Any:
    return build_toy("many_nuisances", nuisances=nuisances, epsilon=0.0, a=0.1)


def parametric(toy: Any, hidden: tuple[int, ...]) -> Estimator:
    """`ratio_parametric` in all parameters, degree 2, fitted by least squares to the exact coefficients of a linear Gaussian.

    Hidden layers stay at their random start: they cost what trained ones do. Normalised locally, as trained ones are.
    """
    space = ParameterSpace(tuple(replace(parameter, kind="nuisance") for parameter in toy.spec.parameters.parameters))
    estimator: Any = build_estimator("ratio_parametric", replace(toy.spec, parameters=space), hidden=hidden)
    for seed, parameter in enumerate(estimator.parameters()):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter.shape[-1]) ** 0.5)
    events = data(toy, 20_000, seed=1)
    estimator.prepare(replace(events, theta=space.sample_prior(len(events), torch.Generator().manual_seed(2))))
    # The prior's widths scale the products; here they are the parameters themselves.
    estimator.standardise_theta.std.fill_(1.0)
    estimator = estimator.double()
    p, response = len(space), toy._response.double()
    features = torch.cat([estimator.network[:-1](estimator.standardise_x(events.x.double())), torch.ones(len(events), 1)], -1).detach()
    linear = torch.linalg.lstsq(features, events.x.double() @ response.T).solution.T
    first, second = torch.triu_indices(p, p)
    square = -(response @ response.T)[first, second] * torch.where(first == second, 0.5, 1.0)
    with torch.no_grad():
        estimator.network[-1].weight.zero_()
        estimator.network[-1].weight[1 : p + 1] = linear[:, :-1]
        estimator.network[-1].bias.copy_(torch.cat([torch.zeros(1, dtype=torch.float64), linear[:, -1], square]))
    return estimator


def data(toy: Toy, n: int, seed: int = 0) -> Events:
    """Events at the nominal point, where all features are N(0, 1)."""
    x = torch.randn(n, toy.spec.x_dim, generator=torch.Generator().manual_seed(seed))
    return Events(x, torch.zeros(n, 0, dtype=torch.float64), torch.ones(n, dtype=torch.float64))


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_a_million_events_with_fifty_nuisances(benchmark: Any) -> None:
    """One fit, local normalisation included: linear and square terms and all 1,275 products; seconds, and peak memory in MB."""
    toy = gaussian(50)
    estimator, events = parametric(toy, (128, 128, 128)), data(toy, 1_000_000)
    results: list[FitResult] = []
    benchmark.pedantic(lambda: results.append(fit(Likelihood(estimator), events)), rounds=1)
    benchmark.extra_info["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    benchmark.extra_info["calls"] = results[0].calls
    assert results[0].valid, results[0].reason


def test_sums_against_event_by_event(benchmark: Any) -> None:
    """The same MIGRAD fit of 20,000 events with 8 nuisances, from sums and from networks: sums must be ten times faster."""
    toy = gaussian(8)
    estimator, events = parametric(toy, (32, 32)), data(toy, 20_000)
    likelihood = Likelihood(estimator)

    def fitted(objective: Objective) -> Found:
        return migrad(objective, likelihood.parameters.nominal, likelihood.parameters, fit_limits(estimator))

    def by_event() -> Found:
        found: Any = likelihood.objective(events)
        return fitted(weighted_objective(estimator, events, found.data, found.terms))

    slow = seconds(by_event)
    benchmark.pedantic(lambda: fitted(likelihood.objective(events)), rounds=3)
    benchmark.extra_info["by_event_over_sums"] = slow / benchmark.stats["median"]
    assert slow > 10 * benchmark.stats["median"]


def test_rows_of_a_mixture_against_event_by_event(benchmark: Any) -> None:
    """One ln L with gradient of a two-process mixture of 50,000 events: the rows kept, and the networks again."""
    toy = gaussian(8)
    first, second = parametric(toy, (64, 64)), parametric(toy, (64, 64))

    def rates(theta: Tensor) -> Tensor:
        return torch.stack([10_000 * (1 + theta[:, 0]), torch.full_like(theta[:, 0], 40_000.0)], -1)

    processes = [Process(name, (Factor(member),)) for name, member in [("signal", first), ("background", second)]]
    mixture = ProcessMixture(first.spec.parameters, processes, rates)
    events, theta = data(toy, 50_000), first.spec.parameters.nominal[None] + 0.1
    kept: Any = Likelihood(mixture, rates).objective(events)
    again = weighted_objective(mixture, events, kept.data, kept.terms)
    slow = seconds(lambda: again(theta, ROW))
    benchmark(lambda: kept(theta, ROW))
    benchmark.extra_info["by_event_over_rows"] = slow / benchmark.stats["median"]
    assert slow > 3 * benchmark.stats["median"]
    assert torch.allclose(kept(theta, ROW)[0], again(theta, ROW)[0], rtol=1e-10)
