"""Deployment: a run leaves the benchmark as a bundle, with its weights, its rates and what was found of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from touchneedle.benchmark.cell_checks import load_plugins
from touchneedle.benchmark.config import ExperimentConfig, parse_config
from touchneedle.benchmark.fitted import restored
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import Metric, Record, read_record, record_files, record_path
from touchneedle.benchmark.training_source import training_events
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.inference.bundle import Format, save_bundle
from touchneedle.inference.manifest import MANIFEST, Score, Source, read_manifest
from touchneedle.inference.plain_folder import read_plain
from touchneedle.inference.rate_fit import fit_rate_model
from touchneedle.toys.base import build_toy


def deploy(record_file: str | Path, folder: str | Path, formats: Sequence[Format] = ("pt2",)) -> Path:
    """Write the bundle of one run.

    Args:
        record_file: ``RESULTS/RUN_ID.json``; the weights lie in the same results folder.
        folder: the bundle, which must not exist yet.
        formats: graphs to export where the estimator allows it.

    Raises:
        InputError: for a run that is not good, a control, weights that are gone, or components that have changed since.
    """
    file = Path(record_file)
    record = read_record(file)
    if record.status != "ok":
        raise InputError(f"record {file}: expected a good run; this one is {record.status} ({record.reason[:100]})")
    config, fit_id = trained_config(record, file.parent)
    toy = build_toy(config.toy.name, **config.toy.params)
    rates = fit_rate_model(toy.spec.parameters, toy.rates)
    estimator = restored(config, toy, fit_id)
    return save_bundle(folder, estimator, training_events(config, toy), rates, source_of(record), tuple(formats))


def summary(folder: Path) -> str:
    """What a bundle holds, for the terminal: how well its rates are described, and which graphs it has."""
    manifest = read_manifest(folder, read_plain(folder, MANIFEST))
    lines = [f"{manifest.estimator.name} on {manifest.toy.name}: {folder}"]
    if manifest.source is not None and manifest.source.failed:
        lines.append(f"beware: it fails {', '.join(manifest.source.failed)}")
    if manifest.rates is not None:
        lines.append(f"rates: described to {manifest.rates.worst_deviation:.2g} of the total rate at worst")
    return "\n".join(lines + [f"{name}: {said}" for name, said in manifest.exports.items()])


def best_run(toy: str, results: str | Path) -> Path:
    """The record of the best gated run on a toy: highest n* of the leaderboard among fits that fail no gate in any of their records.

    Of equals, the lowest run_id. Controls do not compete. Raises `InputError` saying how many there were where none is left.
    """
    records = [read_record(file) for file in record_files(results)]
    good = [record for record in records if record.status == "ok" and record.toy.name == toy and not _is_control(record)]
    refuted = {record.fit_id for record in good if "fail" in gates_of(record).values()}
    passed = [record for record in good if record.fit_id not in refuted]
    known = [record for record in passed if not math.isnan(n_star(record))]
    if not known:
        raise InputError(
            f"results {results}: expected a run on {toy} that fails no gate and has n*; of {len(good)} good runs "
            f"{len(passed)} fail none, and none of these has n* (evaluate with the fit family, or name a record)"
        )
    return record_path(results, min(known, key=lambda record: (-n_star(record), record.run_id)).run_id)


def n_star(record: Record) -> float:
    """n* at the nominal point, the lowest of the parameters of interest; NaN where one has none. A lower limit counts as its value."""
    rows = [metric for metric in record.metrics if (metric.family, metric.name) == ("fit", "n_star") and not metric.at.get("point")]
    values = [math.nan if metric.value is None else metric.value for metric in rows]
    return math.nan if not values or any(map(math.isnan, values)) else min(values)


def gates_of(record: Record) -> dict[str, str]:
    """State of every gate of a run that has one."""
    return {metric.name: str(metric.at["state"]) for metric in record.metrics if metric.family == "gates" and "state" in metric.at}


def trained_config(record: Record, results: Path) -> tuple[ExperimentConfig, str]:
    """The configuration whose weights a run was scored with (the best trial of a tuned one), and their fit_id.

    Raises `InputError` if the same configuration would be another fit today.
    """
    config = replace(parse_config(record.config), results=str(results))
    load_plugins(config)
    chosen = next((trial for trial in record.trials if trial.chosen), None)
    fit_id = record.fit_id if chosen is None else chosen.fit_id
    if chosen is not None:
        from touchneedle.benchmark.tuning import with_options

        config = with_options(config, chosen.options)
    if identify(config)[0] != fit_id:
        raise InputError(
            f"record {record.run_id}: its toy, estimator or training has changed since (another version or file); run it again"
        )
    return config, fit_id


def source_of(record: Record) -> Source:
    """What a manifest keeps of a record: where it came from, and every number with its error."""
    return Source(
        run_id=record.run_id,
        fit_id=record.fit_id,
        toy_params=record.toy.params,
        n_train=record.budget.n_train,
        design=record.design,
        seed=record.seed,
        track=record.track,
        gates=gates_of(record),
        scores=tuple(_score(metric) for metric in record.metrics if metric.value is not None),
    )


def _score(metric: Metric) -> Score:
    return Score(family=metric.family, name=metric.name, at=metric.place, value=metric.value, stderr=metric.stderr)


def _is_control(record: Record) -> bool:
    try:
        return bool(getattr(registry.estimators.load(record.estimator.name), "needs_truth", False))
    except InputError:
        # A plugin that is not installed cannot be deployed either.
        return True
