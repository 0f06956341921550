"""What the suite adds to the training and the scores that it is about: a command beside a bare loop that trains and scores the same."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.performance.bare_training import BATCH, ESTIMATOR, FRACTION, N_TRAIN, SCORED, TOY, bare_training
from tests.performance.ratios import Speed, note_speed, side_by_side
from tests.performance.test_sweeps import mean, of_children
from touchneedle.benchmark.evaluate import evaluate

ROOT = Path(__file__).parents[2]
EPOCHS, FEW, ROUNDS = 43, 2, 3
IMPORTS = {
    "torch": "import torch",
    "touchneedle, without training": "import touchneedle.benchmark.run",
    "Hydra": "import torch, touchneedle.benchmark.run, touchneedle.benchmark.sweep",
    "Lightning": "import torch, touchneedle.benchmark.run, lightning.pytorch",
}
NOTE = "a step's checks and sums, imports of Hydra and evaluation, records; Lightning is imported for several processes only"


def run(*words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".typing"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, check=True, text=True).stdout


def by_command(results: Path, epochs: int) -> None:
    """A cell by the command, trained and scored anew."""
    scores = (f"evaluation.n_test={SCORED.n_test}", f"evaluation.n_sample={SCORED.n_sample}", "evaluation.families=[density]")
    trainer = (f"trainer.max_epochs={epochs}", f"trainer.patience={epochs}", f"trainer.batch_size={BATCH}", "seed=0")
    words = (f"toy={TOY}", f"estimator={ESTIMATOR}", "budget=medium", f"results={results}", *trainer, *scores)
    run("-m", "touchneedle.benchmark.main", "run", *words)


def by_loop(epochs: int) -> list[float]:
    return list(json.loads(run("-m", "tests.performance.bare_training", str(epochs))))


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Processor time of few epochs and of many, either way, in turns."""
    folders = (tmp_path_factory.mktemp("results") for _ in range(1_000))
    tasks = {
        f"{name} {epochs}": (lambda call=call, epochs=epochs: call(epochs))
        for epochs in (FEW, EPOCHS)
        for name, call in (("command", lambda epochs: by_command(next(folders), epochs)), ("loop", by_loop))
    }
    return side_by_side(tasks, ROUNDS, of_children)


@pytest.mark.slow
def test_the_loop_trains_the_same(tmp_path: Path) -> None:
    by_command(tmp_path, FEW)
    (log,) = tmp_path.glob("fits/*/training.json")
    assert json.loads(log.read_text())["validation_loss"] == pytest.approx(by_loop(FEW), rel=1e-6)


def test_overhead_of_a_run(benchmark: Any, seconds: dict[str, list[float]]) -> None:
    """What a run takes beyond the bare loop, imports of torch and the toy excepted, over the time that the loop trains."""
    pairs = list(zip(seconds[f"command {EPOCHS}"], seconds[f"loop {EPOCHS}"], seconds[f"loop {FEW}"], strict=True))
    training = [(loop - few) * EPOCHS / (EPOCHS - FEW) for _, loop, few in pairs]
    shares = [100 * (command - loop) / long for (command, loop, _), long in zip(pairs, training, strict=True)]
    benchmark.pedantic(lambda: None, rounds=1)
    note = f"of a training of {mean(training)[0]:.0f} s: {NOTE}"
    note_speed(
        benchmark,
        Speed("overhead", f"a run of {ESTIMATOR}", *mean(shares), "a bare loop", wanted=10.0, better="lower", unit="%", note=note),
    )
    assert mean(shares)[0] < 30


def test_overhead_of_a_step(benchmark: Any, seconds: dict[str, list[float]]) -> None:
    """What the trainer adds to a step, from runs of few and of many epochs: nothing that happens once enters."""
    steps = (EPOCHS - FEW) * -(-round(N_TRAIN * (1 - FRACTION)) // BATCH)
    ways = {way: list(zip(seconds[f"{way} {EPOCHS}"], seconds[f"{way} {FEW}"], strict=True)) for way in ("command", "loop")}
    each = {way: [1e3 * (many - few) / steps for many, few in pairs] for way, pairs in ways.items()}
    added = [trainer - bare for trainer, bare in zip(each["command"], each["loop"], strict=True)]
    benchmark.pedantic(lambda: None, rounds=1)
    note_speed(
        benchmark,
        Speed("overhead", "a step of the trainer, less a bare one", *mean(added), unit="ms"),
        Speed("overhead", "a bare step", *mean(each["loop"]), unit="ms"),
    )


def test_evaluation_beside_its_families(benchmark: Any, one_thread: None) -> None:
    """Curves, slices and responses of an evaluation, which are drawn whatever families are scored."""
    toy, estimator, _ = bare_training(1)
    seconds = side_by_side({"no family": lambda: evaluate(toy, estimator, replace(SCORED, families=()), 0)}, ROUNDS)
    benchmark.pedantic(lambda: None, rounds=1)
    note_speed(benchmark, Speed("overhead", "curves, slices and responses", *mean(seconds["no family"]), unit="s"))


def test_imports(benchmark: Any) -> None:
    """Processor time of imports, each with those that it rests on; paid once in a process."""
    found = side_by_side({name: (lambda code=code: run("-c", code)) for name, code in IMPORTS.items()}, ROUNDS, of_children)
    benchmark.pedantic(lambda: None, rounds=1)
    base = found["touchneedle, without training"]
    for name in ("torch", "touchneedle, without training"):
        note_speed(benchmark, Speed("overhead", f"importing {name}", *mean(found[name]), unit="s"))
    for name in ("Hydra", "Lightning"):
        more = [value - plain for value, plain in zip(found[name], base, strict=True)]
        note_speed(benchmark, Speed("overhead", f"importing {name}", *mean(more), "all else imported", unit="s"))
