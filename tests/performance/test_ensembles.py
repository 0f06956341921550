"""Training an ensemble: one stacked pass against its members one after the other, on a GPU where there is one."""

import copy
from typing import Any

import pytest
import torch

from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.train import train_ensemble
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.toys.base import build_toy

DEVICES = ["cpu", *(["gpu"] if torch.cuda.is_available() else [])]
MEMBERS = 8


@pytest.mark.parametrize("accelerator", DEVICES)
@pytest.mark.parametrize("name", ["ratio_bce", "posterior_flow", "zuko_nsf"])
def test_training_eight_members(benchmark: Any, name: str, accelerator: str) -> None:
    """Seconds of eight stacked members over those of one network, and over those of eight in sequence, are in ``extra_info``."""
    toy = build_toy("fnf_two_class")
    events = make_events(toy, 20_000, "prior", 0)
    trainer = TrainerConfig(max_epochs=1, batch_size=1_024, progress=False, accelerator=accelerator)  # type: ignore[arg-type]
    estimator = build_estimator(name, toy.spec)

    def seconds(count: int, stacked: str) -> float:
        members = [copy.deepcopy(estimator) for _ in range(count)]
        config = EnsembleConfig(members=count, stacked=stacked)  # type: ignore[arg-type]
        return train_ensemble(Ensemble(members), events, trainer, OptimizerConfig(), config, 0).seconds

    seconds(1, "no")
    others = [(seconds(1, "no"), seconds(MEMBERS, "no")) for _ in range(3)]
    benchmark.pedantic(lambda: seconds(MEMBERS, "yes"), rounds=3)
    one, sequence = (sorted(column)[1] for column in zip(*others, strict=True))
    benchmark.extra_info["over_one"] = benchmark.stats["median"] / one
    benchmark.extra_info["speed_up"] = sequence / benchmark.stats["median"]
