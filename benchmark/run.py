"""One cell of a sweep, from configuration to record: events, training, evaluation, record.

    toy -> make_events -> train -> evaluate -> Record

A failure inside a run becomes a record with its reason and traceback; only an unusable results
folder raises.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from touchneedle.benchmark.cell_checks import load_plugins
from touchneedle.benchmark.config import EvaluationConfig, ExperimentConfig, TrainerConfig, config_to_dict, parse_config
from touchneedle.benchmark.environment import describe_environment, device_of
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.fitted import Retraining, fit_seed, fitted
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.metrics.curves import curve_row
from touchneedle.benchmark.metrics.scores import Row, Scores
from touchneedle.benchmark.ranks import peak_memory_mb
from touchneedle.benchmark.records import (
    Budget,
    EstimatorInfo,
    Record,
    Status,
    ToyInfo,
    read_record,
    record_files,
    record_path,
    write_record,
)
from touchneedle.benchmark.seeding import derive_seed
from touchneedle.benchmark.store import CURVE_COLUMNS, clear_leftovers, hash_identity, hold_cell, write_table
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.benchmark.training_source import training_events, with_budget_of_files
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import build_toy


def run_experiment(config: ExperimentConfig, *, force: bool = False, wait: bool = True) -> Record | None:
    """Train, score and record one cell, or return its record if a good one exists.

    Args:
        force: score again even if there is a good record (weights are kept).
        wait: wait for another process that works on the same cell; otherwise return None then.

    Raises:
        InputError: if the results folder cannot be written.
    """
    load_plugins(config)
    results = Path(config.results)
    try:
        config = with_budget_of_files(config)
        fit_id, run_id = identify(config)
    except InputError as error:
        return _record_failure(config, error)
    done = None if force else _good_record(results, run_id)
    if done is not None:
        return done
    with hold_cell(results, fit_id, wait=wait) as held:
        if not held:
            return None
        done = None if force else _good_record(results, run_id)
        return done or _run(config, fit_id, run_id)


def evaluate_fits(results: str | Path, evaluation: EvaluationConfig) -> list[Record]:
    """Add scores under another evaluation to every good fit of a results folder, without retraining."""
    configs: dict[str, ExperimentConfig] = {}
    for file in record_files(results):
        record = read_record(file)
        if record.status == "ok":
            config = parse_config(record.config)
            configs[record.fit_id] = replace(config, evaluation=evaluation, results=str(results))
    records = [run_experiment(config) for config in configs.values()]
    return [record for record in records if record is not None]


def _run(config: ExperimentConfig, fit_id: str, run_id: str) -> Record:
    results = Path(config.results)
    record = _empty_record(config, fit_id, run_id)
    clear_leftovers(results, run_id)
    try:
        with _threads(config.trainer.threads):
            scores, log, estimator = _train_and_score(config, fit_id, record)
            record.cost = _cost(scores, log, estimator, config.trainer) | _tuning_cost(record)
        record.metrics = scores.metrics
        write_table(results / run_id / "curves.parquet", _loss_rows(log) + scores.curves, CURVE_COLUMNS)
        for name, table in scores.tables.items():
            write_table(results / run_id / f"{name}.parquet", table)
    except Exception as error:
        _describe_failure(record, error)
    write_record(results, record)
    return record


def _train_and_score(config: ExperimentConfig, fit_id: str, record: Record) -> tuple[Scores, TrainingLog, Estimator]:
    toy = build_toy(config.toy.name, **config.toy.params)
    record.toy.version = toy.spec.version
    if config.tuning.trials:
        # Its import takes a second, as training is behind it.
        from touchneedle.benchmark.tuning import tune

        record.track = "tuned"
        config, record.trials = tune(config, toy)
        fit_id = identify(config)[0]
    estimator, log = fitted(config, toy, fit_id)
    estimator.to(device_of(config.trainer))
    retraining = Retraining(config, toy)
    scores = evaluate(toy, estimator, config.evaluation, config.seed, retraining, lambda: training_events(config, toy))
    scores.cost |= retraining.cost
    return scores, log, estimator


def _good_record(results: Path, run_id: str) -> Record | None:
    """The record of a run that needs no repetition; a failed or corrupt one does."""
    path = record_path(results, run_id)
    if not path.is_file():
        return None
    try:
        record = read_record(path)
    except InputError:
        return None
    return record if record.status in ("ok", "skipped") else None


def _record_failure(config: ExperimentConfig, error: InputError) -> Record:
    """Record a cell whose input is unusable before it has an identity of its own."""
    payload = config_to_dict(config)
    identity = hash_identity({key: payload[key] for key in payload if key != "results"})
    record = _empty_record(config, identity, identity)
    _describe_failure(record, error)
    write_record(config.results, record)
    return record


def _describe_failure(record: Record, error: Exception) -> None:
    status: Status = "skipped" if isinstance(error, SkipCell) else "failed"
    record.status = status
    record.reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    if status == "failed":
        record.traceback = "".join(traceback.format_exception(error))


def _empty_record(config: ExperimentConfig, fit_id: str, run_id: str) -> Record:
    seeds = {
        "data": derive_seed(config.seed, "data", config.toy.name, config.budget.n_train, config.design),
        "fit": fit_seed(config),
    }
    return Record(
        run_id=run_id,
        fit_id=fit_id,
        status="ok",
        toy=ToyInfo(name=config.toy.name, params=config.toy.params),
        estimator=EstimatorInfo(name=config.estimator.name, params=config.estimator.params, **_estimator_origin(config)),
        budget=Budget(name=config.budget.name, n_train=config.budget.n_train),
        design=config.design,
        seed=config.seed,
        seeds=seeds,
        environment=describe_environment(config),
        config=config_to_dict(config),
    )


def _estimator_origin(config: ExperimentConfig) -> dict[str, str]:
    try:
        chosen: Any = registry.estimators.load(config.estimator.name)
    except InputError:
        return {}
    return {"version": chosen.version, "distribution": registry.estimators.entry(config.estimator.name).distribution}


def _cost(scores: Scores, log: TrainingLog, estimator: Estimator, trainer: TrainerConfig) -> dict[str, float | int | str | None]:
    return {
        "train_seconds": log.seconds,
        "epochs": len(log.train_loss),
        "stopped": log.stopped,
        "parameters": sum(p.numel() for p in estimator.parameters()),
        "peak_memory_mb": peak_memory_mb(trainer),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        **estimator.cost(),
        **scores.cost,
    }


def _tuning_cost(record: Record) -> dict[str, float | int | str | None]:
    return {"trials": len(record.trials), "tuning_seconds": sum(trial.seconds for trial in record.trials)} if record.trials else {}


def _loss_rows(log: TrainingLog) -> list[Row]:
    series = {"train": log.train_loss, "validation": log.validation_loss}
    return [curve_row("loss", name, epoch, value) for name, values in series.items() for epoch, value in enumerate(values, start=1)]


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if n > 0:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
