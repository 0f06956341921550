"""Benchmark: what judges. Loaded lazily, so that the command line answers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from touchneedle.benchmark.records import Record, read_records
    from touchneedle.benchmark.run import run_experiment

__all__ = ["Record", "read_records", "run_experiment"]


def __getattr__(name: str) -> Any:
    if name == "run_experiment":
        from touchneedle.benchmark.run import run_experiment

        return run_experiment
    if name in __all__:
        from touchneedle.benchmark import records

        return getattr(records, name)
    raise AttributeError(name)
