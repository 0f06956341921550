"""Cells: one run of a sweep each, with what became of it and how it is told. No Hydra here."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from touchneedle.benchmark.config import ComponentConfig, ExperimentConfig
from touchneedle.benchmark.imports import heavy_imports
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError, SkipCell

# How a limit is written, by what is censored.
LIMITS = {"above": "> ", "below": "< "}
# The first of these that a record has is shown on its progress line.
KEY_METRICS = (("fit", "n_star"), ("fit", "bias_vs_oracle"), ("density", "kl"), ("density", "log_ratio_rmse"), ("closure", "mean_ratio"))


@dataclass(frozen=True)
class Cell:
    """One valid cell of a sweep.

    Attributes:
        number: position in the sweep, from 1.
        recorded: status of its record, empty if there is none.
    """

    number: int
    overrides: list[str]
    config: ExperimentConfig
    recorded: str = ""

    @property
    def finished(self) -> bool:
        """A good record exists: ok, or skipped for a reason that repeating would not change."""
        return self.recorded in ("ok", "skipped")


@dataclass(frozen=True)
class Problem:
    """A cell that cannot run: its position, overrides, and why."""

    number: int
    overrides: list[str]
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; ``held`` means that another process is running it."""

    status: Literal["ok", "failed", "skipped", "held"]
    reason: str = ""
    metric: str = ""


def run_cell(config: ExperimentConfig, position: str, *, force: bool, wait: bool, debug: bool) -> Outcome:
    """Run one cell in this process and print one line about it (on stderr if it failed); with ``debug``, what goes wrong is raised."""
    start = time.perf_counter()
    try:
        outcome = _outcome(config, force, wait)
    except Exception as error:
        # One cell must not end the others, whatever it raises.
        if debug:
            raise
        expected = isinstance(error, InputError | OSError)
        outcome = Outcome("failed", one_line(error) if expected else f"{type(error).__name__}: {one_line(error)} (see --debug)")
    if outcome.status != "held":
        stream = sys.stderr if outcome.status == "failed" else sys.stdout
        print(progress_line(position, config, outcome, time.perf_counter() - start), file=stream, flush=True)
    return outcome


def _outcome(config: ExperimentConfig, force: bool, wait: bool) -> Outcome:
    for plugin in config.plugins:
        registry.load_plugin_file(plugin)
    with heavy_imports():
        from touchneedle.benchmark.run import run_experiment

    record = run_experiment(config, force=force, wait=wait)
    return Outcome("held") if record is None else Outcome(record.status, record.reason, key_metric(record.metrics))


def progress_line(position: str, config: ExperimentConfig, outcome: Outcome, seconds: float) -> str:
    """``[ 3/12] ok       mass_bump ratio_bce small prior seed 0  12.3 s  n_star 812 +- 40``."""
    ending = outcome.metric if outcome.status == "ok" else one_line(outcome.reason)
    return f"[{position}] {outcome.status:7s} {label(config)}  {seconds:.1f} s  {ending}".rstrip()


def label(config: ExperimentConfig) -> str:
    """A cell in a few words."""
    parts = [_component(config.toy), _component(config.estimator), config.budget.name, config.design]
    return f"{' '.join(parts)} seed {config.seed}"


def key_metric(metrics: Sequence[Any]) -> str:
    """The first key metric of a record, with its error, or as a limit; empty if there is none."""
    found = {(metric.family, metric.name): metric for metric in reversed(metrics) if metric.value is not None}
    for key in KEY_METRICS:
        if key in found:
            metric = found[key]
            limit = LIMITS.get(str(metric.at.get("censored")), "")
            error = "" if limit or metric.stderr is None else f" +- {metric.stderr:.2g}"
            return f"{metric.name} {limit}{metric.value:.4g}{error}"
    return ""


def one_line(error: object) -> str:
    """The first line of a message."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def check(config: ExperimentConfig) -> None:
    """Raise `InputError` for a cell that cannot run; one that will be skipped with a reason is fine."""
    with heavy_imports():
        from touchneedle.benchmark.cell_checks import check_config

    try:
        check_config(config)
    except SkipCell:
        return


def recorded_status(config: ExperimentConfig) -> str:
    """Status of the cell's record, or an empty string; raises `InputError` if the record is corrupt."""
    from touchneedle.benchmark.identity import identify
    from touchneedle.benchmark.records import read_record, record_path

    path = record_path(config.results, identify(config)[1])
    return read_record(path).status if path.exists() else ""


def check_results(results: str) -> None:
    """Create the results folder; raises `InputError` if it cannot be written."""
    from touchneedle.benchmark.records import write_atomically

    probe = Path(results) / ".writable"
    write_atomically(probe, "")
    probe.unlink(missing_ok=True)


@cache
def option_names(group: str) -> list[str]:
    """Options of a configuration group such as ``trainer``; empty for plain keys and components."""
    group_class = get_type_hints(ExperimentConfig).get(group)
    if group_class is ComponentConfig or not isinstance(group_class, type) or not is_dataclass(group_class):
        return []
    return [field.name for field in fields(group_class)]


def _component(component: ComponentConfig) -> str:
    options = ",".join(f"{name}={value}" for name, value in component.params.items())
    return f"{component.name}({options})" if options else component.name
