"""What a nuisance costs a factorizable flow: a training step, an answer and an objective of a fit, with 1 to 100 of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pytest
import torch

from tests.performance.ratios import Speed, Task, note_speed, ratio, side_by_side
from touchneedle.benchmark.data import make_events
from touchneedle.estimators import masked_networks
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference.likelihood import Likelihood
from touchneedle.toys.base import Events, ParameterSpace, Toy, build_toy

COUNTS = (1, 3, 10, 30, 100)
ROWS, FEATURES, ROUNDS = 1_024, 5, 7


@dataclass
class Case:
    """A flow with some nuisances, its networks away from zero, and events of the last nuisance's templates."""

    flow: Estimator
    events: Events
    theta: torch.Tensor


def case(count: int) -> Case:
    toy = build_toy("many_nuisances", nuisances=max(count, FEATURES - 1))
    parameters = ParameterSpace(toy.spec.parameters.parameters[: 1 + count])
    flow = build_estimator("factorizable_flow", replace(toy.spec, features=toy.spec.features[:FEATURES], parameters=parameters))
    events = template_events(toy, count)
    flow.prepare(events)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    theta = parameters.sample_prior(ROWS, generator).clamp(-1, 1)
    return Case(flow, flow.stages()[-1].select(events)[:ROWS], theta)


def template_events(toy: Toy, count: int) -> Events:
    """The first features and nuisances of a toy's templates."""
    events = make_events(toy, ROWS * (len(toy.spec.parameters) + 10), "templates", 0)
    single = (events.theta[:, 1 + count :] == 0).all(1)
    return replace(events[single], x=events.x[single, :FEATURES], theta=events.theta[single, : 1 + count], generated_at=None)


def training_step(case: Case) -> Task:
    """Of the last nuisance's stage; a training takes as many of them for each nuisance."""
    return lambda: case.flow.loss(case.events, torch.Generator()).mean().backward()


def answer(case: Case) -> Task:
    return torch.no_grad()(lambda: case.flow.log_ratio(case.events.x, case.theta[: len(case.events)]))


def objective(case: Case) -> Task:
    """ln L and its gradient in float64, where all nuisances act."""
    called = Likelihood(case.flow.double()).objective(replace(case.events, theta=case.events.theta[:, :0]))
    point = case.flow.spec.parameters.nominal[None] + 0.1
    return lambda: called(point, torch.zeros(1, dtype=torch.int64))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("what", "make", "wanted"),
    [("training step of a nuisance", training_step, 0.1), ("log_ratio", answer, 1.1), ("ln L and gradient", objective, 1.1)],
)
def test_cost_per_nuisance(benchmark: Any, what: str, make: Callable[[Case], Task], wanted: float) -> None:
    """The slope of ln t over ln K between 30 and 100, and how far t = a + b K is from all five."""
    tasks = {str(count): make(case(count)) for count in COUNTS}
    seconds = side_by_side(tasks, ROUNDS)
    more, error = ratio(seconds["100"], seconds["30"])
    slope, its_error = math.log(more) / math.log(100 / 30), error / more / math.log(100 / 30)
    whole, whole_error = ratio(seconds["100"], seconds["1"])
    times = [median(seconds[str(count)]) for count in COUNTS]
    note_speed(
        benchmark,
        Speed("nuisances", what, slope, its_error, "30 to 100 nuisances", wanted, "lower", "power of their number"),
        Speed("nuisances", what, whole, whole_error, "1 nuisance", better="lower", note="100 nuisances"),
        Speed("nuisances", what, residual(times), None, "a + b K", better="lower", unit="largest relative residual"),
    )
    benchmark.pedantic(tasks["100"], rounds=1)
    assert slope < 1.5


def residual(times: list[float]) -> float:
    """Largest relative distance of five times from the straight line in K that is best in relative distances."""
    time = torch.tensor(times, dtype=torch.float64)
    line = torch.tensor([[1.0, count] for count in COUNTS], dtype=torch.float64) / time[:, None]
    best = torch.linalg.lstsq(line, torch.ones(len(COUNTS), 1, dtype=torch.float64)).solution
    return float((line @ best - 1).abs().max())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("what", "make"), [("log_ratio", answer), ("ln L and gradient", objective)])
def test_weights_stacked_once(benchmark: Any, what: str, make: Callable[[Case], Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100 nuisances: the networks' weights stacked once and kept, against once for each chunk of events."""
    task, keeps = make(case(100)), masked_networks._are_constant

    def stacking_again() -> object:
        monkeypatch.setattr(masked_networks, "_are_constant", lambda networks: False)
        try:
            return task()
        finally:
            monkeypatch.setattr(masked_networks, "_are_constant", keeps)

    seconds = side_by_side({"kept": task, "again": stacking_again}, ROUNDS)
    value, error = ratio(seconds["again"], seconds["kept"])
    note_speed(benchmark, Speed("nuisances", f"{what}, weights kept", value, error, against="stacked for each chunk of events"))
    benchmark.pedantic(task, rounds=1)
    assert value > 0.8
