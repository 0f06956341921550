"""Touchneedle beside sbi 0.27, end to end: from events in memory to a trained estimator that is at least as good on held-out events.

Own schedules: ours are 30 epochs of batches of 512 with a learning rate that falls from 4e-3 (chosen on the events of seed 0, which are
not measured here), sbi's are its defaults. One schedule: both take 30 epochs of 512 with 4e-3. Compilation counts, as a warm start: code
of an earlier process is on disk, and each training traces its loss anew; importing the compiler (a second of a process) does not count.
A ratio counts only at an equal score.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.performance.profiles import needed_note
from tests.performance.ratios import Speed, note_speed, ratio
from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig

pytest.importorskip("sbi")
from tests.performance.beside_sbi import N_HELD_OUT, PROBLEMS, Trained, Way, draw_events, ours, theirs

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS, WANTED = (1, 2, 3), 3.0
EPOCHS, BATCH, LEARNING_RATE = 30, 512, 4e-3
TRAINER = TrainerConfig(max_epochs=EPOCHS, batch_size=BATCH, patience=EPOCHS, accelerator="cpu", progress=False)
# sbi counts epochs from 0 to the last one.
SAME = {"training_batch_size": BATCH, "learning_rate": LEARNING_RATE, "stop_after_epochs": EPOCHS, "max_num_epochs": EPOCHS - 1}
ADAM = OptimizerConfig("adam", LEARNING_RATE, weight_decay=0.0, schedule="constant")
WAYS = {
    "own schedules": Way(TRAINER, OptimizerConfig(learning_rate=LEARNING_RATE), {}),
    "one schedule": Way(TRAINER, ADAM, SAME),
    "one schedule, compiled": Way(replace(TRAINER, compile=True), ADAM, SAME),
}
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_training_is_faster_at_an_equal_score(benchmark: Any, kind: str, name: str, device: str) -> None:
    way = replace(WAYS[name], trainer=replace(WAYS[name].trainer, accelerator="gpu" if device == "cuda" else "cpu"))
    pairs: list[tuple[Trained, Trained]] = []

    def measure() -> None:
        if way.trainer.compile:
            # What counts is a warm start, whatever was compiled on this machine before.
            ours(kind, replace(way, trainer=replace(way.trainer, max_epochs=1)), *draw_events(0), 0)
        for seed in SEEDS:
            both = kind, way, *draw_events(seed), seed
            pairs.append((theirs(*both), ours(*both)))

    benchmark.pedantic(measure, rounds=1)
    gain, error = mean_and_error([float((our.score - their.score).mean()) for their, our in pairs])
    note = f"held-out score {scores([our for _, our in pairs])}, sbi {scores([their for their, _ in pairs])}; {len(SEEDS)} trainings"
    training = ratio([their.training for their, _ in pairs], [our.training for _, our in pairs])
    if device == "cpu" and training[0] < WANTED:
        brief, events = replace(way, trainer=replace(way.trainer, max_epochs=2)), draw_events(0)
        note += f"; {needed_note(lambda: ours(kind, brief, events[0], events[1][:1], 0), training[0], calls=1, closure=True)}"
    against = f"sbi 0.27, {device}"
    both = ratio([their.training + their.evaluation for their, _ in pairs], [our.training + our.evaluation for _, our in pairs])
    with_evaluation = f"{kind}, {name}, with {N_HELD_OUT:,} log-likelihoods"
    note_speed(
        benchmark,
        Speed("beside sbi", f"{kind}, {name}", *training, against=against, wanted=WANTED, note=note),
        Speed("beside sbi", with_evaluation, *both, against=against, wanted=WANTED, note=note),
    )
    assert gain > -3 * error, note
    assert training[0] > 1


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def scores(runs: list[Trained]) -> str:
    mean, error = mean_and_error([float(run.score.mean()) for run in runs])
    return f"{mean:.4f} ± {error:.4f}"
