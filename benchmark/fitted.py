"""The trained estimator of a cell: its kept weights, or a training whose weights are kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.config import ExperimentConfig, TrackingConfig
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.imports import heavy_imports
from touchneedle.benchmark.ranks import share_of, train_in_ranks
from touchneedle.benchmark.records import read_record, record_path
from touchneedle.benchmark.seeding import derive_seed
from touchneedle.benchmark.store import clear_unfinished_fit, load_fit, load_weights, save_fit
from touchneedle.benchmark.tracking import follow
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_source import shufflable, training_events
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ensemble import Ensemble
from touchneedle.toys.base import EventSource, Toy


def fitted(config: ExperimentConfig, toy: Toy, fit_id: str) -> tuple[Estimator, TrainingLog]:
    """The estimator with its weights, and the log of its training (call with the lock of the cell held, or as a rank of such a call).

    Raises `SkipCell` for a design that the estimator cannot use, or a budget that the toy cannot give.
    """
    results, seed, share = Path(config.results), fit_seed(config), share_of(config.trainer)
    first = share is None or share.rank == 0
    if first:
        clear_unfinished_fit(results, fit_id)
    estimator = _build(config, toy, seed)
    if config.design not in estimator.designs:
        raise SkipCell(f"estimator {config.estimator.name} uses design {' or '.join(sorted(estimator.designs))}; got {config.design}")
    log = load_fit(results, fit_id, estimator)
    if log is None and share is None:
        train_in_ranks(config, fit_id)
        log = load_fit(results, fit_id, estimator)
    if log is None:
        # Of several ranks the first one keeps and tells what all have trained.
        own = config if first else replace(config, tracking=TrackingConfig("none"))
        with shufflable(training_events(config, toy), config, fit_id) as source:
            log = _train_members(estimator, source, own, fit_id)
        if first:
            save_fit(results, fit_id, estimator, log)
    return estimator, log


def restored(config: ExperimentConfig, toy: Toy, fit_id: str) -> Estimator:
    """The estimator with the weights kept for a fit, never trained anew; raises `InputError` if there are none."""
    estimator = _build(config, toy, fit_seed(config))
    if load_fit(Path(config.results), fit_id, estimator) is None:
        raise InputError(f"no weights under {config.results}/fits/{fit_id}; run that cell again")
    return estimator


@dataclass
class Retraining:
    """Trains the method of a cell again, on event sets of their own: network k is the same cell under a derived seed.

    So its weights are kept and found again like those of any other fit. It belongs to the cell whose lock is held.
    """

    config: ExperimentConfig
    toy: Toy
    logs: list[TrainingLog] = field(default_factory=list)

    def __call__(self, k: int) -> Estimator:
        """Network k; raises `SkipCell` if the training events are given, so that there is no other set of them."""
        if self.config.data.training:
            raise SkipCell("evaluation.retrain needs an event set for each network; data.training gives one: set evaluation.retrain=0")
        config = replace(self.config, seed=derive_seed(self.config.seed, "retrain", k))
        estimator, log = fitted(config, self.toy, identify(config)[0])
        self.logs.append(log)
        return estimator

    @property
    def cost(self) -> dict[str, float | int | str | None]:
        """Networks and the seconds that their trainings took, whenever that was; nothing if there are none."""
        if not self.logs:
            return {}
        return {"retrained_networks": len(self.logs), "retrain_seconds": sum(log.seconds for log in self.logs)}


def fit_seed(config: ExperimentConfig) -> int:
    """Seed of the initial weights and of the training's randomness."""
    return derive_seed(config.seed, "fit", config.toy.name, config.estimator.name)


def _build(config: ExperimentConfig, toy: Toy, seed: int) -> Estimator:
    ensemble = config.ensemble
    # Members of a bootstrap start from the same weights.
    seeds = [derive_seed(seed, "member", k if ensemble.resample == "seed" else 0) for k in range(ensemble.members)]
    members = [_build_one(config, toy, member_seed) for member_seed in seeds]
    if len(members) == 1:
        return members[0]
    combination: Any = registry.ensembles.load(ensemble.combine)
    return combination(members)


def _build_one(config: ExperimentConfig, toy: Toy, seed: int) -> Estimator:
    # Layers draw their initial weights from the global state: fork it, so that nobody else notices.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_estimator(config.estimator.name, toy.spec, truth=toy, **config.estimator.params)


def _train_members(estimator: Estimator, source: EventSource, config: ExperimentConfig, fit_id: str) -> TrainingLog:
    # The optimisers of torch take a second to import: only where something trains.
    with heavy_imports():
        from touchneedle.benchmark.train import train, train_ensemble

    seed, start = fit_seed(config), start_of(config)
    with follow(config.tracking, Path(config.results), fit_id) as follower:
        if isinstance(estimator, Ensemble):
            return train_ensemble(estimator, source, config.trainer, config.optimizer, config.ensemble, seed, start, follower)
        return train(estimator, source, config.trainer, config.optimizer, seed, start, follower)


def start_of(config: ExperimentConfig) -> dict[str, Tensor] | None:
    """The weights of the run that training starts from (one network of the same estimator); None without.

    Raises `InputError` if the run or its weights are not in the results folder.
    """
    if not config.trainer.start:
        return None
    results = Path(config.results)
    record = read_record(record_path(results, config.trainer.start))
    # The weights of a tuned run are those of its best trial.
    fit_id = next((trial.fit_id for trial in record.trials if trial.chosen), record.fit_id)
    tensors = load_weights(results, fit_id)
    if tensors is None:
        raise InputError(f"trainer.start={config.trainer.start}: no weights under {results}/fits/{fit_id}; run that cell again")
    if record.estimator.name != config.estimator.name:
        raise InputError(f"trainer.start={config.trainer.start}: expected weights of {config.estimator.name}; got {record.estimator.name}")
    return tensors
