"""Training steps beside those of zuko, nflows, normflows and of a hand-written loop; the first compiled step; equal likelihoods."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.performance.first_step import NOTHING
from tests.performance.profiles import needed_note
from tests.performance.ratios import Speed, note_speed, ratio, side_by_side
from tests.performance.training_steps import LIBRARIES, estimator_step, library_step, plain_ratio_step
from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Method -> wanted of the plain step and of the compiled one.
WANTED = {"spline_flow": (2.0, 3.5), "affine_flow": (1.3, 1.3), "ratio_bce": (1.3, 1.3)}


def on_one_clock(device: str) -> dict[str, Any]:
    """A processor works while a GPU is waited for."""
    return {"clock": time.perf_counter} if device == "cuda" else {}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["spline_flow", "affine_flow", "ratio_bce"])
def test_a_training_step_against_the_fastest_of_others(benchmark: Any, name: str, device: str) -> None:
    others = {family: library_step(family, device) for family in LIBRARIES.get(name, ())} or {"torch by hand": plain_ratio_step(device)}
    ours = {kind: estimator_step(name, compile=kind == "compiled", device=device) for kind in ("plain", "compiled")}
    seconds = side_by_side({**others, **ours}, **on_one_clock(device))
    fastest = min(others, key=lambda other: sorted(seconds[other])[len(seconds[other]) // 2])
    for kind, wanted in zip(ours, WANTED[name], strict=True):
        value, error = ratio(seconds[fastest], seconds[kind])
        note = f"of the plain step: {needed_note(ours['plain'], ratio(seconds[fastest], seconds['plain'])[0])}" if value < wanted else ""
        against = f"{fastest}, fastest of {', '.join(others)}"
        note_speed(benchmark, Speed("training step", f"{name}, {kind}, {device}", value, error, against=against, wanted=wanted, note=note))
        assert value > 0.3 * wanted
    benchmark.pedantic(ours["compiled"], rounds=3)


def first_steps(name: str, folder: Path) -> dict[str, float]:
    """Seconds of the first step of two trainings in a fresh process whose caches lie in a folder, and of their parts."""
    environment = os.environ | {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "tests.performance.first_step", name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["spline_flow", "ratio_bce", NOTHING])
def test_the_first_compiled_step(benchmark: Any, name: str, tmp_path: Path) -> None:
    cold, *warm = [first_steps(name, tmp_path) for _ in range(4)]
    measured = name != NOTHING
    first, second = (mean([run[which] for run in warm]) for which in ("first", "second"))
    found = {
        "cold": (cold["first"], None, 10.0, cold),
        "warm": (*first, 2.0, warm[0]),
        "a second network of the process": (*second, 2.0, {}),
    }
    rows = [
        Speed(
            "first step", f"{name}, {kind}", value, error, wanted=wanted if measured else None, better="lower", unit="seconds",
            note=parts_of_first_step(parts),
        )
        for kind, (value, error, wanted, parts) in found.items()
    ]  # fmt: skip
    note_speed(benchmark, *rows)
    benchmark.pedantic(lambda: None, rounds=1)
    assert second[0] < first[0] < cold["first"]


def parts_of_first_step(run: dict[str, float]) -> str:
    return ", ".join(f"{what} {seconds:.1f} s" for what, seconds in run.items() if what not in ("first", "second"))


def mean(seconds: list[float]) -> tuple[float, float]:
    return statistics.mean(seconds), statistics.stdev(seconds) / len(seconds) ** 0.5


def test_equal_likelihood_of_events_held_out(benchmark: Any) -> None:
    """Mean log-likelihood of 20,000 new events: differences in their standard error, of the same events."""
    toy = build_toy("fnf_two_class")
    events, new = (make_events(toy, n, "prior", seed) for n, seed in ((10_000, 0), (20_000, 1)))
    found = {}
    for name, compile in (("zuko_nsf", False), ("spline_flow", False), ("spline_flow", True)):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec)
        trainer = TrainerConfig(max_epochs=30, batch_size=256, progress=False, accelerator="cpu", compile=compile)
        train(estimator, events, trainer, OptimizerConfig(), 0)
        with torch.no_grad():
            found[name, compile] = estimator.log_prob(new.x, new.theta)
    benchmark.pedantic(lambda: None, rounds=1)
    reference = found.pop(("zuko_nsf", False))
    for (name, compile), log_prob in found.items():
        difference = log_prob - reference
        mean, error = float(difference.mean()), float(difference.std()) / len(difference) ** 0.5
        what = f"{name}, {'compiled' if compile else 'plain'}"
        note_speed(benchmark, Speed("likelihood of held-out events", what, mean, error, against="zuko_nsf", unit="nats"))
        # Trainings that differ by their initial weights alone differ by that much.
        assert abs(mean) < 0.05
