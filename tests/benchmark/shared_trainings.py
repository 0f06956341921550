"""What the ranks of `test_shared_training` train, in a module that their processes can import."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.store import save_fit
from touchneedle.benchmark.train import train
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ratio_bce import RatioBce, RatioBceConfig
from touchneedle.estimators.spline_flow import SplineFlow, SplineFlowOptions
from touchneedle.toys.base import Events, ToySpec, build_toy

SEED, RANKS = 5, 2
# 903 events to train on: seven batches of 128, and one of 7 that two ranks share unequally.
N_EVENTS = 1_003
OPTIMIZER = OptimizerConfig(learning_rate=2e-2, schedule="constant")


def trainer_of(devices: int) -> TrainerConfig:
    """Short of patience, so that a training stops early."""
    return TrainerConfig(max_epochs=40, batch_size=128, patience=2, progress=False, accelerator="cpu", devices=devices)


def spline_flow(spec: ToySpec) -> Estimator:
    """Its loss draws nothing and treats every event alone."""
    return SplineFlow(spec, SplineFlowOptions(transforms=1, hidden_features=(8,), bins=4))


def ratio_bce(spec: ToySpec) -> Estimator:
    """Its loss pairs each event with a random other one of the batch."""
    return RatioBce(spec, RatioBceConfig(hidden=(8,)))


class RatioOfShares(RatioBce):
    """One process that computes the loss of a batch as two ranks do: share by share, each with random numbers of its own."""

    second: torch.Generator | None = None

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        return torch.cat([super()._loss(events[0::RANKS], generator), super()._loss(events[1::RANKS], self._of_second())])

    def _of_second(self) -> torch.Generator:
        """Generator of the second rank; all validation events are one batch, and the draws are the same in every epoch."""
        if not self.training:
            return derive_generator(SEED + 2, "rank", 1)
        self.second = self.second or derive_generator(SEED, "rank", 1)
        return self.second


def ratio_of_shares(spec: ToySpec) -> Estimator:
    """The counterpart of `ratio_bce` in one process."""
    return RatioOfShares(spec, RatioBceConfig(hidden=(8,)))


class FailsInSecond(RatioBce):
    """Its second rank fails at the fourth step, while the first one waits for its gradients."""

    steps = 0

    def _loss(self, events: Events, generator: torch.Generator) -> Tensor:
        self.steps += 1
        if os.environ["RANK"] == "1" and self.steps == 4:
            raise InputError("the second rank cannot go on")
        return super()._loss(events, generator)


def train_double(build: Callable[[ToySpec], Estimator], devices: int) -> tuple[Estimator, TrainingLog]:
    """An estimator trained in float64, where rounding does not grow into anything that looks like an error."""
    toy = build_toy("mass_bump")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        estimator = build(toy.spec).double()
    return estimator, train(estimator, make_events(toy, N_EVENTS, "prior", 0), trainer_of(devices), OPTIMIZER, SEED)


def train_shared(folder: Path) -> None:
    """What each rank does: two trainings whose weights it keeps, and one that fails."""
    for build in (spline_flow, ratio_bce):
        save_fit(folder, f"{build.__name__}-{os.environ['RANK']}", *train_double(build, RANKS))
    train_double(lambda spec: FailsInSecond(spec, RatioBceConfig(hidden=(8,))), RANKS)


TOYS = {"mined": "eft_quadratic", "signed": "signed_mixture"}
NEEDS_TEMPLATES = ("ratio_morphed", "template_histogram")


def train_every(folder: Path, names: Sequence[str]) -> None:
    """What each rank does: a short training of every estimator, on a toy and a design that suit it."""
    for name in names:
        toy = build_toy(next((toy for word, toy in TOYS.items() if word in name or name == "score_sally"), "fnf_two_class"))
        torch.manual_seed(1)
        estimator = build_estimator(name, toy.spec)
        designs = ("templates",) if name in NEEDS_TEMPLATES else ("prior", "templates", "pairs", "nominal")
        design = next(design for design in designs if design in estimator.designs)
        trainer = TrainerConfig(max_epochs=1, batch_size=128, progress=False, accelerator="cpu", devices=RANKS)
        log = train(estimator, make_events(toy, 701, design, 0), trainer, OptimizerConfig(), SEED)
        save_fit(folder, f"{name}-{os.environ['RANK']}", estimator, log)
