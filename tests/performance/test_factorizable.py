"""What a nuisance costs a factorizable flow: a training step and an answer with 1 to 100 of them."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from touchneedle.benchmark.data import make_events
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import Events, ParameterSpace, Toy, build_toy

COUNTS = (1, 3, 10, 30, 100)
ROWS = 256
FEATURES = 5


def template_events(toy: Toy, count: int) -> Events:
    """The first features and nuisances of a toy's templates."""
    events = make_events(toy, 2 * ROWS * (2 * len(toy.spec.parameters) - 1), "templates", 0)
    single = (events.theta[:, 1 + count :] == 0).all(1)
    return replace(events[single], x=events.x[single, :FEATURES], theta=events.theta[single, : 1 + count], generated_at=None)


def seconds(call: Callable[[], Any]) -> float:
    """Median of five."""
    call()
    found = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return sorted(found)[2]


@pytest.mark.parametrize("what", ["step", "log_ratio"])
def test_cost_per_nuisance(benchmark: Any, what: str) -> None:
    """Seconds with K nuisances, over those with one, are in ``extra_info``; features stay five."""
    costs = {}
    for count in COUNTS:
        toy = build_toy("many_nuisances", nuisances=max(count, FEATURES - 1))
        parameters = ParameterSpace(toy.spec.parameters.parameters[: 1 + count])
        flow = build_estimator("factorizable_flow", replace(toy.spec, features=toy.spec.features[:FEATURES], parameters=parameters))
        events = template_events(toy, count)
        flow.prepare(events)
        chosen = flow.stages()[-1].select(events)[:ROWS]
        joint = parameters.sample_prior(ROWS, torch.Generator().manual_seed(0))

        def step(flow: Any = flow, chosen: Any = chosen) -> None:
            flow.loss(chosen, torch.Generator()).mean().backward()

        def answer(flow: Any = flow, chosen: Any = chosen, joint: Any = joint) -> None:
            with torch.no_grad():
                flow.log_ratio(chosen.x, joint[: len(chosen)])

        costs[count] = seconds(step if what == "step" else answer)
    benchmark.extra_info |= {f"over_one_with_{count}": costs[count] / costs[1] for count in COUNTS}
    benchmark.pedantic(step if what == "step" else answer, rounds=3)
