"""Training of one estimator or of an ensemble: its stages, one after the other, and the log.

A method without stages is fitted in ``prepare`` alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.benchmark.allocator import keep_freed_memory
from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.members import OneMember, StackedMembers, can_stack, members_frozen_but
from touchneedle.benchmark.optimizers import NOT_BY_ELEMENT
from touchneedle.benchmark.ranks import n_ranks
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_loop import run_stage
from touchneedle.benchmark.training_plan import Follower, Start, TrainingPlan
from touchneedle.benchmark.training_split import TrainingSplit, split_events
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Estimator, Stage
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.estimators.pretraining import start_from
from touchneedle.toys.base import Events, EventSource


def train(
    estimator: Estimator,
    source: EventSource,
    trainer: TrainerConfig,
    optimizer: OptimizerConfig,
    seed: int,
    start: Start = None,
    follower: Follower | None = None,
) -> TrainingLog:
    """Train ``estimator`` in place on a source of events and return the log.

    An `EventStream` that does not fit into its memory limit is read anew in every epoch.

    Args:
        seed: derives shuffling and the randomness of the loss; initial weights come with the estimator.
        start: weights of another training to begin with.
        follower: told the losses of each epoch as they come.

    Raises:
        NonFiniteLoss: with the stage, epoch and step.
        SkipCell: if a stage has no events, or the method cannot learn from events that do not fit into memory.
    """
    begun = time.perf_counter()
    split = split_events(source, trainer.validation_fraction)
    log = _train_alone(estimator, split, TrainingPlan(trainer, optimizer, seed, start, follower))
    log.seconds = time.perf_counter() - begun
    return log


def train_ensemble(
    estimator: Ensemble,
    source: EventSource,
    trainer: TrainerConfig,
    optimizer: OptimizerConfig,
    ensemble: EnsembleConfig,
    seed: int,
    start: Start = None,
    follower: Follower | None = None,
) -> TrainingLog:
    """Train the members of an ensemble in place, and finish it; the log is that of the first, with the seconds of all.

    All share the order of events and the randomness of the loss, so that they differ by what the ensemble is about:
    their initial weights, or their Poisson(1) weights (bootstrap; validation events keep their own). In one stacked
    pass where the method and the optimiser allow it (see `members`), else one after the other, with equal results.
    """
    begun = time.perf_counter()
    split = split_events(source, trainer.validation_fraction)
    members = estimator.estimators
    splits = [_resampled(split, ensemble, seed, k) for k in range(len(members))]
    train_all = _stacked if _together(ensemble, trainer) else _one_by_one
    log = train_all(members, splits, TrainingPlan(trainer, optimizer, seed, start, follower))
    estimator.eval()
    estimator.finish(split.validation)
    log.seconds = time.perf_counter() - begun
    return log


def held_out(source: EventSource, trainer: TrainerConfig) -> Events:
    """The events of a source that training keeps for validation, in random order."""
    return split_events(source, trainer.validation_fraction).validation


def _stacked(members: Sequence[Estimator], splits: Sequence[TrainingSplit], plan: TrainingPlan) -> TrainingLog:
    """All members in one pass, if the method and the optimiser allow it."""
    for member, split in zip(members, splits, strict=True):
        _prepare(member, split, plan.start)
    first = splits[0]
    if plan.optimizer.name in NOT_BY_ELEMENT or not can_stack(members, first.training):
        return _one_by_one(members, splits, plan)
    log = TrainingLog()
    first.check(members[0].stages())
    if isinstance(first.training, Events):  # A stream has promised how much memory is taken in all.
        keep_freed_memory()
    own = _own_weights(splits)
    for stages in zip(*(member.stages() for member in members), strict=True):
        with members_frozen_but(members, stages):
            trainee = StackedMembers(members, stages, _chosen(own, stages[0], first))
            run_stage(trainee, stages[0].name, *first.of(stages[0]), plan, log)
    return _finished(members, first.validation, log)


def _own_weights(splits: Sequence[TrainingSplit]) -> Tensor | None:
    """Weights of the training events of each member (K, n); None if they are the same."""
    if all(split is splits[0] for split in splits):
        return None
    return torch.stack([split.training.weight for split in splits if isinstance(split.training, Events)])


def _chosen(weights: Tensor | None, stage: Stage, split: TrainingSplit) -> Tensor | None:
    """Those of the events that a stage uses."""
    if weights is None or stage.event_filter is None or not isinstance(split.training, Events):
        return weights
    return weights[:, stage.event_filter(split.training)]


def _one_by_one(members: Sequence[Estimator], splits: Sequence[TrainingSplit], plan: TrainingPlan) -> TrainingLog:
    plans = [plan] + [replace(plan, follower=None)] * (len(members) - 1)
    logs = [_train_alone(*each) for each in zip(members, splits, plans, strict=True)]
    return logs[0]


def _train_alone(estimator: Estimator, split: TrainingSplit, plan: TrainingPlan) -> TrainingLog:
    log = TrainingLog()
    _prepare(estimator, split, plan.start)
    split.check(estimator.stages())
    for stage in estimator.stages():
        with members_frozen_but([estimator], [stage]):
            trainee = OneMember(estimator, stage, compile=plan.trainer.compile)
            run_stage(trainee, stage.name, *split.of(stage), plan, log)
    return _finished([estimator], split.validation, log)


def _prepare(estimator: Estimator, split: TrainingSplit, start: Start) -> None:
    estimator.prepare(split.training if estimator.stages() else split.every)
    if start is not None:
        start_from(estimator, start)


def _finished(members: Sequence[Estimator], validation: Events, log: TrainingLog) -> TrainingLog:
    for member in members:
        member.eval()
        member.finish(validation)
    return log


def _together(ensemble: EnsembleConfig, trainer: TrainerConfig) -> bool:
    """By default unless several processes share the training: 4 to 5 times faster on a GPU, 1.5 to 3 times on a CPU."""
    return ensemble.stacked == "yes" or (ensemble.stacked == "auto" and n_ranks(trainer) == 1)


def _resampled(split: TrainingSplit, ensemble: EnsembleConfig, seed: int, member: int) -> TrainingSplit:
    if ensemble.resample == "seed":
        return split
    if not isinstance(split.every, Events):
        raise SkipCell("ensemble.resample=bootstrap needs the training events in memory; choose seed, or raise data.memory_limit")
    weight = split.every.weight
    generator = derive_generator(seed, "bootstrap", member)
    return split.with_weight(weight * torch.poisson(torch.ones_like(weight), generator=generator))
