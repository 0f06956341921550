"""What a full evaluation costs: all families, 1,000 pseudo-experiments of 1,000 events at 5 theta points, on two cores.

A 4-D toy with two nuisances; seconds by family are in ``extra_info``.
"""

import time
from typing import Any

import pytest
import torch

from tests.performance.ratios import Speed, note_speed
from touchneedle.benchmark import evaluate
from touchneedle.benchmark.config import EvaluationConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import build_toy

TOY = "gaussian_mixture"
N_TRAIN = 100_000
FULL = EvaluationConfig(
    name="cost", n_experiments=1_000, n_points=5, n_test=100_000, n_sample=10_000, n_events=(1_000,), n_pool=50_000, n_exact=100,
    n_posterior=1_000, n_set=(1, 10),
)  # fmt: skip


@pytest.fixture(autouse=True)
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(name: str, epochs: int) -> Estimator:
    """Trained well enough for its likelihood to be smooth, as in a real evaluation."""
    toy = build_toy(TOY)
    torch.manual_seed(0)
    estimator = build_estimator(name, toy.spec)
    events = make_events(toy, N_TRAIN, "prior", 0)
    estimator.prepare(events)
    train(estimator, events, TrainerConfig(max_epochs=epochs, accelerator="cpu", progress=False), OptimizerConfig(), 0)
    return estimator


@pytest.mark.parametrize(("name", "epochs", "target"), [("ratio_bce", 20, 60), ("zuko_nsf", 20, 300), ("spline_flow", 20, 300)])
def test_full_evaluation(benchmark: Any, monkeypatch: pytest.MonkeyPatch, name: str, epochs: int, target: float) -> None:
    """Wall time of `evaluate`, by family."""
    seconds: dict[str, float] = {}

    def timed(family: str, call: Any) -> Any:
        def run(context: Any) -> Any:
            start = time.perf_counter()
            scores = call(context)
            seconds[family] = time.perf_counter() - start
            return scores

        return run

    monkeypatch.setattr(evaluate, "FAMILIES", {family: timed(family, call) for family, call in evaluate.FAMILIES.items()})
    estimator = trained(name, epochs)
    scores = benchmark.pedantic(lambda: evaluate.evaluate(build_toy(TOY), estimator, FULL, 0), rounds=1)
    assert {row.family for row in scores.metrics} == {*evaluate.FAMILIES, "gates"}
    taken, longest = benchmark.stats["median"], max(seconds, key=seconds.__getitem__)
    note = f"{seconds[longest]:.0f} s of it are {longest}"
    note_speed(benchmark, Speed("full evaluation", name, taken, None, wanted=target, better="lower", unit="s", note=note))
    benchmark.extra_info["by_family"] = {family: round(value, 2) for family, value in seconds.items()}
