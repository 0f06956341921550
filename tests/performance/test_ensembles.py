"""Training an ensemble of eight: one stacked pass against its members one after the other, and against one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch

from tests.performance.profiles import needed_note
from tests.performance.ratios import Speed, note_speed, ratio, side_by_side
from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train_ensemble
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.toys.base import build_toy

Where = tuple[Literal["cpu", "gpu"], int]
# Two threads that share a core wait for each other most of the time, and measure nothing.
PLACES: list[Where] = [("cpu", 1)] + [("cpu", 2)] * ((os.cpu_count() or 1) > 1) + [("gpu", 1)] * torch.cuda.is_available()
MEMBERS, ROUNDS, WANTED = 8, 5, 1.5
# What is trained: a method, and its options where they are not the default ones.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ratio_bce": ("ratio_bce", {}),
    "ratio_bce of 2 x 64": ("ratio_bce", {"hidden": (64, 64)}),
    "posterior_flow": ("posterior_flow", {}),
    "spline_flow": ("spline_flow", {}),
}


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Where]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param[1])
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("place", PLACES, indirect=True, ids=lambda place: f"{place[0].replace('gpu', 'cuda')} {place[1]} threads")
@pytest.mark.parametrize("name", CASES)
def test_training_eight_members(benchmark: Any, name: str, place: Where) -> None:
    """Default batches, two epochs of 18,000 events, preparation and validation included."""
    (accelerator, threads), (method, options) = place, CASES[name]
    toy = build_toy("fnf_two_class")
    events = make_events(toy, 20_000, "prior", 0)
    trainer = TrainerConfig(max_epochs=2, progress=False, accelerator=accelerator)

    def trained(count: int, stacked: Literal["auto", "no"]) -> None:
        members = [build_estimator(method, toy.spec, **options) for _ in range(count)]
        train_ensemble(Ensemble(members), events, trainer, OptimizerConfig(), EnsembleConfig(members=count, stacked=stacked), 0)

    tasks = {"one": lambda: trained(1, "no"), "sequence": lambda: trained(MEMBERS, "no"), "stacked": lambda: trained(MEMBERS, "auto")}
    seconds = side_by_side(tasks, ROUNDS, time.process_time if place == ("cpu", 1) else time.perf_counter)
    what, on_gpu = f"{name}, {MEMBERS} members, {accelerator}", accelerator == "gpu"
    what += "" if on_gpu else f", {threads} thread{'s' * (threads > 1)}"
    faster, error = ratio(seconds["sequence"], seconds["stacked"])
    over_one, its_error = ratio(seconds["stacked"], seconds["one"])
    note = (
        f"of the stacked training: {needed_note(tasks['stacked'], faster, calls=1, closure=True)}" if faster < WANTED and not on_gpu else ""
    )
    note_speed(
        benchmark,
        Speed("ensemble", what, faster, error, against="one after the other", wanted=None if on_gpu else WANTED, note=note),
        Speed("ensemble", what, over_one, its_error, against="one member", wanted=WANTED if on_gpu else None, better="lower"),
    )
    benchmark.pedantic(tasks["stacked"], rounds=1)
    assert faster > 0.8
