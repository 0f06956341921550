"""Records to rows: one row per toy, estimator with its options, budget, design and evaluation.

Seeds of a row are averaged (`touchneedle.reports.aggregate`); nothing else is. Two toy versions, two
estimator versions, two trainer settings are different rows, and toy versions stand in different tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from touchneedle.benchmark.config import EnsembleConfig, OptimizerConfig, TrainerConfig
from touchneedle.benchmark.records import Metric, Record, read_record, record_files, run_id_of
from touchneedle.conf.errors import InputError
from touchneedle.reports.aggregate import Cell, average, identity

Role = Literal["entry", "control", "baseline"]
BASELINES = frozenset({"template_histogram", "counting"})
# These change how fast a run is, not what it computes.
_MACHINE_ONLY = frozenset({"accelerator", "threads", "progress"})
_GROUP_DEFAULTS: dict[str, dict[str, Any]] = {
    "trainer": asdict(TrainerConfig()),
    "optimizer": asdict(OptimizerConfig()),
    "ensemble": asdict(EnsembleConfig()),
}


@dataclass(frozen=True)
class Run:
    """One record and the file it came from; its curves lie in the folder beside it."""

    file: Path
    record: Record

    @property
    def curves(self) -> Path:
        """Where the curves of the run lie, if it has any."""
        return self.file.parent / run_id_of(self.file) / "curves.parquet"


@dataclass(frozen=True)
class Row:
    """What stands in one line of a table.

    Attributes:
        key: canonical JSON of everything that tells this row from others.
        options: estimator, trainer, optimiser and ensemble options that differ from their defaults.
        runs: good runs, by seed.
        failed: failed runs of the same cell; their seeds are missing from the means.
        unsaid: options of the training that all rows have alike, which tell nothing apart.
    """

    key: str
    toy: tuple[str, str, str]
    estimator: str
    version: str
    distribution: str
    track: str
    options: dict[str, Any]
    budget: str
    n_train: int
    design: str
    evaluation: str
    evaluation_key: str
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]
    failed: tuple[Run, ...] = ()
    notes: tuple[str, ...] = ()
    unsaid: frozenset[str] = frozenset()

    @property
    def role(self) -> Role:
        """Whether the row is ranked (``entry``) or stands beside for comparison."""
        return role_of(self.estimator)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds averaged."""
        return tuple(run.record.seed for run in self.runs)

    @property
    def label(self) -> str:
        """Estimator with the options that may tell it apart, e.g. ``zuko_nsf transforms=5``."""
        return " ".join([self.estimator, *(f"{name}={compact(value)}" for name, value in self.options.items() if name not in self.unsaid)])


@dataclass(frozen=True)
class Problem:
    """A file that could not be used."""

    file: str
    reason: str


@dataclass
class Results:
    """Everything that a report shows.

    Attributes:
        rows: rows with at least one good run, by key.
        failed: all failed runs.
        skipped: all skipped runs.
        problems: files that could not be read.
    """

    rows: list[Row] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    skipped: list[Run] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def role_of(estimator: str) -> Role:
    """Controls are the oracles and the best Gaussian; baselines are what an analyst has without learning."""
    if estimator in ("oracle", "best_gaussian") or estimator.startswith("oracle_"):
        return "control"
    return "baseline" if estimator in BASELINES else "entry"


def read_results(folder: str | Path) -> Results:
    """Read a results folder; corrupt files become problems. Raises `InputError` if there is no record at all."""
    files = record_files(folder)
    if not files:
        raise InputError(f"results {folder}: expected at least one record (*.json, *.json.gz); got an empty folder (run a sweep first)")
    results = Results()
    runs = []
    for file in files:
        try:
            runs.append(Run(file, read_record(file)))
        except InputError as error:
            results.problems.append(Problem(file.name, str(error)))
    runs.sort(key=lambda run: (row_key(run.record), run.record.seed, run.record.run_id, run.file.name))
    results.failed = [run for run in runs if run.record.status == "failed"]
    results.skipped = [run for run in runs if run.record.status == "skipped"]
    results.rows = tidy_rows(runs)
    return results


def tidy_rows(runs: Iterable[Run]) -> list[Row]:
    """Rows from runs of any status, sorted by key; cells without a good run have no row."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(row_key(run.record), []).append(run)
    rows = [row for key in sorted(groups) if (row := _row(key, groups[key])) is not None]
    unsaid = _alike(rows)
    return [replace(row, unsaid=unsaid) for row in rows]


def _alike(rows: Sequence[Row]) -> frozenset[str]:
    """Options of the training groups with one value in all rows, of which there are several."""
    if len(rows) < 2:
        return frozenset()
    alike = set.intersection(*({(name, compact(value)) for name, value in row.options.items()} for row in rows))
    return frozenset(name for name, _ in alike if name.partition(".")[0] in _GROUP_DEFAULTS)


def row_key(record: Record) -> str:
    """Canonical JSON of all that must agree for runs to be averaged: everything but the seed and the machine."""
    parts = {
        "toy": toy_key(record),
        "estimator": [record.estimator.name, record.estimator.version, record.estimator.distribution],
        "params": record.estimator.params,
        "budget": [record.budget.n_train, record.budget.name],
        "design": record.design,
        "track": record.track,
        "evaluation": section(record.config, "evaluation"),
        **{group: _without_machine(section(record.config, group)) for group in _GROUP_DEFAULTS},
    }
    return canonical(parts)


def toy_key(record: Record) -> tuple[str, str, str]:
    """Name, version and options of a toy: results of different ones are never mixed."""
    return record.toy.name, record.toy.version, canonical(record.toy.params)


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One group of a configuration; empty if the record has none."""
    value = config.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def compact(value: Any) -> str:
    """An option's value as short text."""
    return value if isinstance(value, str) else canonical(value)


def changed_options(record: Record) -> dict[str, Any]:
    """Options that differ from their defaults: the estimator's, then those of the training groups."""
    options = dict(sorted(record.estimator.params.items()))
    for group, defaults in _GROUP_DEFAULTS.items():
        preset = section(record.config, group).get("name", "default")
        if group == "trainer" and preset != "default":
            options[group] = preset
            continue
        for name, value in sorted(_without_machine(section(record.config, group)).items()):
            if name != "name" and value != defaults.get(name):
                options[f"{group}.{name}"] = value
    if section(record.config, "optimizer").get("name", "adamw") != "adamw":
        options["optimizer"] = section(record.config, "optimizer")["name"]
    return options


def _row(key: str, runs: list[Run]) -> Row | None:
    good = [run for run in runs if run.record.status == "ok"]
    if not good:
        return None
    kept, notes = _one_per_seed(good)
    record = kept[0].record
    evaluation = section(record.config, "evaluation")
    return Row(
        key=key,
        toy=toy_key(record),
        estimator=record.estimator.name,
        version=record.estimator.version,
        distribution=record.estimator.distribution,
        track=record.track,
        options=changed_options(record),
        budget=record.budget.name,
        n_train=record.budget.n_train,
        design=record.design,
        evaluation=str(evaluation.get("name", "")),
        evaluation_key=canonical(evaluation),
        runs=tuple(kept),
        cells=_cells(kept),
        failed=tuple(run for run in runs if run.record.status == "failed"),
        notes=tuple(notes),
    )


def _one_per_seed(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """A seed counts once: of several records of a seed, the one with the most numbers."""
    best: dict[int, Run] = {}
    count: dict[int, int] = {}
    for run in runs:
        seed = run.record.seed
        count[seed] = count.get(seed, 0) + 1
        if seed not in best or len(run.record.metrics) >= len(best[seed].record.metrics):
            best[seed] = run
    notes = [f"seed {s}: {n} records of this cell; {best[s].record.run_id} is shown" for s, n in sorted(count.items()) if n > 1]
    return [best[seed] for seed in sorted(best)], notes


def _cells(runs: list[Run]) -> tuple[Cell, ...]:
    collected: dict[tuple[str, str, str], dict[int, Metric]] = {}
    for run in runs:
        for metric in [*run.record.metrics, *cost_metrics(run.record)]:
            collected.setdefault(identity(metric), {}).setdefault(run.record.seed, metric)
    return tuple(average(list(metrics.items())) for metrics in collected.values())


def _without_machine(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _MACHINE_ONLY}


def cost_metrics(record: Record) -> list[Metric]:
    """Timings and sizes of a run as rows; they vary from run to run, so records keep them apart from the metrics."""
    numbers = {name: float(value) for name, value in record.cost.items() if isinstance(value, int | float)}
    return [
        Metric(family="cost", name=name, value=value, stderr=numbers.get(f"{name}_stderr"))
        for name, value in numbers.items()
        if not name.endswith("_stderr")
    ]
