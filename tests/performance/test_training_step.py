"""Training steps beside those of zuko, nflows, normflows and of a hand-written loop; the first compiled step; equal likelihoods."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

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
# By torch.profiler, one thread.
WHERE = {
    "affine_flow": "products of matrices, SiLU and AdamW, the same in every library, are 55 % of the step; no compiled code replaces them",
    "ratio_bce": "products of matrices and SiLU are 70 % of the step, the same by hand, and compiled SiLU is no faster than torch's own",
}
FIRST = {
    "cold": "half is g++, 0.7 s of a core to read headers and link for each of some 25 loops; half is inductor's Python, five layers long; "
    "compiling one layer alone is quicker (32 against 44 s of cores) but gives 3.2 times only",
    "a second network of the process": "served by the code that the first network of the process had compiled",
    "warm": "tracing by dynamo and loading code from the cache; the plain step that checks it is included",
}


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
        note = WHERE.get(name, "") if value < wanted else ""
        against = f"{fastest}, fastest of {', '.join(others)}"
        note_speed(benchmark, Speed("training step", f"{name}, {kind}, {device}", value, error, against=against, wanted=wanted, note=note))
        assert value > 0.3 * wanted
    benchmark.pedantic(ours["compiled"], rounds=3)


def first_steps(name: str, folder: Path) -> list[float]:
    """Seconds of the first step of two trainings in a fresh process whose caches lie in a folder."""
    environment = os.environ | {"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "tests.performance.first_step", name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return [float(word) for word in done.stdout.split()[-2:]]


@pytest.mark.parametrize("name", ["spline_flow", "ratio_bce"])
def test_the_first_compiled_step(benchmark: Any, name: str, tmp_path: Path) -> None:
    runs = [first_steps(name, tmp_path) for _ in range(4)]
    (cold, *warm), again = ([run[place] for run in runs] for place in range(2))
    found = {"cold": (cold, None, 10.0), "warm": (*mean(warm), 2.0), "a second network of the process": (*mean(again), 2.0)}
    rows = [
        Speed("first step", f"{name}, {kind}", value, error, wanted=wanted, better="lower", unit="seconds", note=FIRST[kind])
        for kind, (value, error, wanted) in found.items()
    ]
    note_speed(benchmark, *rows)
    benchmark.pedantic(lambda: None, rounds=1)
    assert statistics.mean(again) < statistics.mean(warm) < cold


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
