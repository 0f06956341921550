"""``touchneedle show``: one run in full, as blocks of text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from touchneedle.benchmark.records import PACKED, Metric, Record, read_record, record_files, run_id_of
from touchneedle.conf.errors import InputError
from touchneedle.reports.aggregate import average
from touchneedle.reports.numbers import format_cell, format_number
from touchneedle.reports.repeat import repeat_command
from touchneedle.reports.rows import compact
from touchneedle.reports.trials import trial_text

_FEW = 8


@dataclass(frozen=True)
class Block:
    """A table with a heading, or a text without columns."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str = ""


def show_run(folder: Path, run: str) -> list[Block]:
    """Everything that the record of a run says: what it was, its numbers, its cost, how to repeat it, and why it failed.

    Args:
        run: its id, the beginning of its id, or the path of its record.

    Raises:
        InputError: if there is none, or several begin like this.
    """
    record = read_record(_file(folder, run))
    blocks = [
        Block("run", ("what", "value"), tuple(_identity(record))),
        Block("numbers", ("metric", "where", "value", "n", "null", "note"), tuple(_metric(metric) for metric in record.metrics)),
        Block("cost", ("what", "value"), tuple((name, _number(value)) for name, value in sorted(record.cost.items()))),
        Block("seeds", ("of", "seed"), tuple((name, str(seed)) for name, seed in record.seeds.items())),
        Block("configuration", ("option", "value"), tuple(_flat(record.config))),
        Block("environment", ("what", "value"), tuple(_flat(record.environment))),
        Block("repeat", text=repeat_command(record) if record.config else ""),
        Block("traceback", text=record.traceback.rstrip()),
    ]
    return [block for block in blocks if block.rows or block.text]


def _file(folder: Path, run: str) -> Path:
    if run.endswith((".json", ".json" + PACKED)):
        return Path(run)
    files = [file for file in record_files(folder) if run_id_of(file).startswith(run)]
    exact = [file for file in files if run_id_of(file) == run]
    if len(exact or files) == 1:
        return (exact or files)[0]
    if not files:
        raise InputError(f"show {run}: no record of that run in {folder}; ids stand in the leaderboard, or give --results")
    names = ", ".join(run_id_of(file) for file in files[:_FEW]) + (" ..." if len(files) > _FEW else "")
    raise InputError(f"show {run}: {len(files)} runs begin like this ({names}); give more of the id")


def _identity(record: Record) -> Iterator[tuple[str, str]]:
    yield "run", record.run_id
    yield "fit", record.fit_id
    yield "status", record.status + (f": {record.reason}" if record.reason else "")
    yield "toy", f"{record.toy.name} (version {record.toy.version or '-'})"
    yield "estimator", f"{record.estimator.name} (version {record.estimator.version or '-'}, from {record.estimator.distribution or '-'})"
    yield "budget", f"{record.budget.name}: {record.budget.n_train:,} training events, design {record.design}"
    yield "seed", str(record.seed)
    yield "track", record.track
    for trial in record.trials:
        yield "trial", trial_text(trial)


def _metric(metric: Metric) -> tuple[str, ...]:
    place = metric.place
    where = ", ".join(f"{name} {value}" for name, value in place.items())
    notes = ", ".join(f"{name} {value}" for name, value in metric.at.items() if name not in place and value is not None)
    null = "" if metric.null is None else format_number(metric.null.value, metric.null.stderr)
    return (
        f"{metric.family}/{metric.name}",
        where,
        format_cell(average([(0, metric)])),
        "" if metric.n is None else str(metric.n),
        null,
        notes,
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested options as dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", compact(value)


def _number(value: float | int | str | None) -> str:
    return format_number(value) if isinstance(value, float) else str(value)
