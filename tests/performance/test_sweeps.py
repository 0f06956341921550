"""Start-up and sweeps: commands in processes of their own, beside the same work done otherwise in the same minutes.

Processor time of a command counts what it costs; wall time counts where processes shall share cores: those tests want a machine of
their own.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.performance.ratios import Speed, note_speed, ratio, side_by_side
from touchneedle.benchmark.compose import compose_config, hydra_session, quick_config, to_experiment
from touchneedle.benchmark.overrides import to_hydra
from touchneedle.benchmark.sweep import expand

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "benchmark" / "stand_in.py"
COMPOSING = "Hydra's own function sets plain values in a copy of what the choices of groups compose to; copying takes most of the rest"
CELLS, ROUNDS = 36, 2
CELL = (
    "toy=mass_bump", "estimator=ratio_bce", "budget=small", "evaluation=quick", "evaluation.n_test=5000",
    "evaluation.families=[density]", "evaluation.n_sample=200", "trainer.max_epochs=25", "trainer.patience=25",
)  # fmt: skip


def started(*words: object, threads: int | None = 1) -> subprocess.Popen[bytes]:
    """The command, in a process of its own; with ``threads`` None it and its workers choose how many they have."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT / ".typing")}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "touchneedle.benchmark.main", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> None:
    assert process.wait() == 0


def touchneedle(*words: object) -> None:
    finish(started(*words))


def of_children() -> float:
    """Processor time of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def mean(seconds: list[float]) -> tuple[float, float]:
    """Median and standard error of its mean."""
    ordered = sorted(seconds)
    centre = ordered[len(ordered) // 2]
    spread = sum((value - centre) ** 2 for value in seconds) / max(len(seconds) - 1, 1)
    return centre, (spread / len(seconds)) ** 0.5


def test_commands_answer_at_once(benchmark: Any) -> None:
    """Processor time, which is their wall time where nothing else runs."""
    tasks = {"--help": lambda: touchneedle("--help"), "list": lambda: touchneedle("list")}
    seconds = side_by_side(tasks, rounds=8, clock=of_children)
    benchmark.pedantic(tasks["--help"], rounds=1)
    for name, wanted in (("--help", 0.5), ("list", 1.0)):
        note_speed(benchmark, Speed("start-up", f"touchneedle {name}", *mean(seconds[name]), wanted=wanted, better="lower", unit="s"))
    assert mean(seconds["list"])[0] < 5


def test_composing_against_hydra(benchmark: Any, one_thread: None) -> None:
    """Cells of the reference sweep: their configurations by copies, and by Hydra alone."""
    cells = [[to_hydra(word) for word in cell] for cell in expand(["sweep=reference"], multirun=True).cells[::20]]

    def by_hydra() -> list[Any]:
        with hydra_session():
            return [to_experiment(compose_config(cell)) for cell in cells]

    def by_copies() -> list[Any]:
        return [to_experiment(config) for cell in cells if (config := quick_config(cell)) is not None]

    assert by_copies() == by_hydra()
    seconds = side_by_side({"hydra": by_hydra, "copies": by_copies}, rounds=5)
    benchmark.pedantic(by_copies, rounds=1)
    value, error = ratio(seconds["hydra"], seconds["copies"])
    cell = [1e3 * value / len(cells) for value in seconds["copies"]]
    note_speed(
        benchmark,
        Speed("start-up", "composing a cell", value, error, "Hydra's compose", 10.0, note=COMPOSING),
        Speed("start-up", "composing a cell, in ms", *mean(cell), unit="ms"),
    )
    assert value > 3


def test_start_up_of_cells(benchmark: Any, tmp_path: Path) -> None:
    """A sweep of 200 cells that take no time, in its process and in a worker, over one of a single cell."""
    seeds = ",".join(map(str, range(200)))
    runs = iter(range(1_000))

    def sweep(launcher: str, cells: str) -> Any:
        words = ("run", "-m", f"seed={cells}", f"launcher={launcher}", "--plugin", STAND_IN)
        return lambda: touchneedle(*words, f"results={tmp_path / str(next(runs))}")

    tasks = {
        f"{launcher} {name}": sweep(launcher, cells) for launcher in ("basic", "joblib") for name, cells in (("200", seeds), ("1", "0"))
    }
    seconds = side_by_side(tasks, rounds=2, clock=of_children)
    benchmark.pedantic(tasks["basic 1"], rounds=1)
    for launcher in ("basic", "joblib"):
        each = [(many - one) / 199 for many, one in zip(seconds[f"{launcher} 200"], seconds[f"{launcher} 1"], strict=True)]
        note_speed(benchmark, Speed("start-up", f"a cell of 200, launcher={launcher}", *mean(each), wanted=2.0, better="lower", unit="s"))
        assert mean(each)[0] < 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_workers_against_one(benchmark: Any, tmp_path: Path) -> None:
    """Wall time of a sweep by one worker and by two; and of its halves by two bare processes, one after the other and at once."""
    tasks = two_workers_tasks(tmp_path)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    used: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            before, start = of_children(), time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
            used[name].append(of_children() - before)
    benchmark.pedantic(lambda: None, rounds=1)
    floor, floor_error = ratio(seconds["after each other"], seconds["at once"])
    cost, cost_error = ratio(used["launcher.n_jobs=2"], used["after each other"])
    note = f"the same halves by two bare processes of a thread each: {floor:.2f} +- {floor_error:.2f}; each process imports torch once"
    value, error = ratio(seconds["launcher.n_jobs=1"], seconds["launcher.n_jobs=2"])
    note_speed(benchmark, Speed("sweep", f"{CELLS} cells, launcher.n_jobs=2", value, error, "launcher.n_jobs=1", 1.8, note=note))
    assert value > 1.1
    what = "processor time of two workers"
    note_speed(benchmark, Speed("sweep", what, cost, cost_error, "two bare processes", better="lower"))


def two_workers_tasks(folder: Path) -> dict[str, Callable[[], object]]:
    """What is timed, each with a results folder of its own."""
    runs = iter(range(1_000))

    def sweep(seeds: range, *launch: str, threads: int | None = None) -> subprocess.Popen[bytes]:
        words = ("run", "-m", *CELL, f"seed={','.join(map(str, seeds))}", *launch, f"results={folder / str(next(runs))}")
        return started(*words, threads=threads)

    halves = [range(first, CELLS, 2) for first in range(2)]
    whole = range(CELLS)
    return {
        "launcher.n_jobs=1": lambda: finish(sweep(whole, "launcher=joblib", "launcher.n_jobs=1", threads=1)),
        "launcher.n_jobs=2": lambda: finish(sweep(whole, "launcher=joblib", "launcher.n_jobs=2")),
        "after each other": lambda: [finish(sweep(half, threads=1)) for half in halves],
        "at once": lambda: [finish(process) for process in [sweep(half, threads=1) for half in halves]],
    }
