"""Training of one estimator or of an ensemble: the split of the events, the stages, the log.

A method without stages is fitted in ``prepare`` alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.environment import device_of
from touchneedle.benchmark.members import OneMember, StackedMembers, can_stack, members_frozen_but
from touchneedle.benchmark.ranks import n_ranks
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_loop import NOT_BY_ELEMENT, run_stage
from touchneedle.benchmark.training_plan import Follower, Start, TrainingPlan
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator, Stage
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.estimators.pretraining import start_from
from touchneedle.toys.base import Events, EventSource, collect


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

    Args:
        seed: derives shuffling and the randomness of the loss; initial weights come with the estimator.
        start: weights of another training to begin with.
        follower: told the losses of each epoch as they come.

    Raises:
        NonFiniteLoss: with the stage, epoch and step.
        SkipCell: if a stage has no events.
    """
    events = _checked(source)
    return _train_alone(estimator, events, events.weight, TrainingPlan(trainer, optimizer, seed, start, follower))


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
    events = _checked(source)
    members = estimator.estimators
    weights = [_resampled(events.weight, ensemble, seed, k) for k in range(len(members))]
    train_all = _stacked if _together(ensemble, trainer) else _one_by_one
    log = train_all(members, events, weights, TrainingPlan(trainer, optimizer, seed, start, follower))
    begun = time.perf_counter()
    estimator.eval()
    estimator.finish(_split(events, trainer.validation_fraction)[1])
    log.seconds += time.perf_counter() - begun
    return log


def _stacked(members: Sequence[Estimator], events: Events, weights: Sequence[Tensor], plan: TrainingPlan) -> TrainingLog:
    """All members in one pass, if the method and the optimiser allow it."""
    begun = time.perf_counter()
    training, validation = _split(events, plan.trainer.validation_fraction)
    kept = _split_rows(len(events), plan.trainer.validation_fraction)[0]
    for member, weight in zip(members, weights, strict=True):
        _prepare(member, training.with_weight(weight[kept]) if member.stages() else events.with_weight(weight), plan.start)
    if plan.optimizer.name in NOT_BY_ELEMENT or not can_stack(members, training):
        return _one_by_one(members, events, weights, plan)
    own = None if all(weight is events.weight for weight in weights) else torch.stack(list(weights))[:, kept]
    log = TrainingLog()
    _check_stages(members[0].stages(), training, validation)
    for stages in zip(*(member.stages() for member in members), strict=True):
        chosen = own if own is None or stages[0].event_filter is None else own[:, stages[0].event_filter(training)]
        with members_frozen_but(members, stages):
            run_stage(StackedMembers(members, stages, chosen), stages[0], training, validation, plan, log)
    return _finished(members, validation, log, begun)


def _one_by_one(members: Sequence[Estimator], events: Events, weights: Sequence[Tensor], plan: TrainingPlan) -> TrainingLog:
    plans = [plan] + [replace(plan, follower=None)] * (len(members) - 1)
    logs = [_train_alone(member, events, weight, own) for member, weight, own in zip(members, weights, plans, strict=True)]
    return replace(logs[0], seconds=sum(log.seconds for log in logs))


def _train_alone(estimator: Estimator, events: Events, weight: Tensor, plan: TrainingPlan) -> TrainingLog:
    """Train on events with weights (n,) of this estimator's own; validation events keep theirs."""
    log = TrainingLog()
    begun = time.perf_counter()
    own = events.with_weight(weight)
    training, validation = _split(own, plan.trainer.validation_fraction)[0], _split(events, plan.trainer.validation_fraction)[1]
    _prepare(estimator, training if estimator.stages() else own, plan.start)
    _check_stages(estimator.stages(), training, validation)
    for stage in estimator.stages():
        with members_frozen_but([estimator], [stage]):
            run_stage(OneMember(estimator, stage), stage, training, validation, plan, log)
    return _finished([estimator], validation, log, begun)


def _prepare(estimator: Estimator, events: Events, start: Start) -> None:
    estimator.prepare(events)
    if start is not None:
        start_from(estimator, start)


def _finished(members: Sequence[Estimator], validation: Events, log: TrainingLog, begun: float) -> TrainingLog:
    for member in members:
        member.eval()
        member.finish(validation)
    log.seconds = time.perf_counter() - begun
    return log


def _together(ensemble: EnsembleConfig, trainer: TrainerConfig) -> bool:
    """By default on one GPU only, where it is 4 to 5 times faster: with one thread of a CPU it may be slower."""
    return ensemble.stacked == "yes" or (ensemble.stacked == "auto" and device_of(trainer).type == "cuda" and n_ranks(trainer) == 1)


def _resampled(weight: Tensor, ensemble: EnsembleConfig, seed: int, member: int) -> Tensor:
    if ensemble.resample == "seed":
        return weight
    generator = derive_generator(seed, "bootstrap", member)
    return weight * torch.poisson(torch.ones_like(weight), generator=generator)


def _checked(source: EventSource) -> Events:
    events = collect(source)
    if not bool(torch.isfinite(events.weight).all()) or float(events.weight.abs().sum()) == 0:
        raise InputError("training events: expected finite weights that are not all zero")
    return events


def _split(events: Events, fraction: float) -> tuple[Events, Events]:
    training, validation = _split_rows(len(events), fraction)
    return events[training], events[validation]


def _split_rows(n: int, fraction: float) -> tuple[Tensor, Tensor]:
    """The same validation split for every estimator of a cell's events: it depends on the events' number alone."""
    n_validation = max(1, round(fraction * n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    return order[n_validation:], order[:n_validation]


def _check_stages(stages: tuple[Stage, ...], training: Events, validation: Events) -> None:
    """Before the first one is trained: without validation events the weights of a random epoch would be kept."""
    for stage in stages:
        sizes = len(stage.select(training)), len(stage.select(validation))
        if not all(sizes):
            raise SkipCell(
                f"stage {stage.name}: expected events of its own; got {sizes[0]} for training, {sizes[1]} for validation: raise the budget"
            )
