"""Where the training events of a cell come from: its toy or files, in memory or streamed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from touchneedle.benchmark.config import BudgetConfig, ExperimentConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.drawn_events import DrawnEvents
from touchneedle.conf.errors import SkipCell
from touchneedle.toys.base import EventSource, SimulatedToy, Toy, build_toy
from touchneedle.toys.event_layout import ROW_GROUP, write_events
from touchneedle.toys.event_stream import PARTS, EventStream

# Row groups that a window mixes at least.
_MIXED = 8
_DIGITS = 16


def training_events(config: ExperimentConfig, toy: Toy) -> EventSource:
    """The events that a cell trains on; the same whenever they are asked for.

    Those of the files of ``data.training``, or the toy's: in memory, or drawn in chunks if they exceed ``data.memory_limit``.
    Raises `SkipCell` if the toy cannot give them.
    """
    if config.data.training:
        return _stream(config, toy, config.data.training)
    if not _exceeds(config, toy):
        return make_events(toy, config.budget.n_train, config.design, config.seed)
    if not isinstance(toy, SimulatedToy):
        raise SkipCell(
            f"toy {toy.spec.name}: its {config.budget.n_train:,} training events are a sample in memory, beyond data.memory_limit; "
            "raise it, or write them to files for data.training"
        )
    return DrawnEvents(toy, config.budget.n_train, config.design, config.seed)


@contextmanager
def shufflable(source: EventSource, config: ExperimentConfig, fit_id: str) -> Iterator[EventSource]:
    """A source that a training can shuffle: drawn events lie in a file of the results folder until it is done."""
    if not isinstance(source, DrawnEvents):
        yield source
        return
    # A name that `clear_unfinished_fit` knows: what a killed process leaves is removed by the next one.
    folder = Path(config.results) / "fits" / f".{fit_id}.events.tmp"
    limit = config.data.memory_limit or 0
    rows = max(1, min(ROW_GROUP, limit // PARTS // _event_bytes(config, source.toy) // _MIXED))
    try:
        path = write_events(folder / "events.parquet", source, source.toy.spec, rows)
        yield _stream(config, source.toy, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def data_identity(config: ExperimentConfig, toy: Toy) -> dict[str, Any]:
    """What of ``data`` decides the outcome of a training: the content of files, and the limit where events exceed it."""
    limit = {"memory_limit": config.data.memory_limit}
    if not config.data.training:
        return limit if _exceeds(config, toy) else {}
    stream = _stream(config, toy, config.data.training)
    files: dict[str, Any] = {"files": [_digest(path, path.stat().st_size, path.stat().st_mtime_ns) for path in stream.paths]}
    files |= {"tree": config.data.tree} if config.data.tree else {}
    return files if stream.fits else files | limit


def with_budget_of_files(config: ExperimentConfig) -> ExperimentConfig:
    """The same configuration with the number of events in ``data.training`` as its budget, if there are such files."""
    if not config.data.training:
        return config
    stream = _stream(config, build_toy(config.toy.name, **config.toy.params), config.data.training)
    return replace(config, budget=BudgetConfig("files", len(stream)))


def _stream(config: ExperimentConfig, toy: Toy, path: str | Path) -> EventStream:
    return EventStream(path, toy.spec, config.data.memory_limit, config.data.workers, config.data.tree)


def _exceeds(config: ExperimentConfig, toy: Toy) -> bool:
    """Whether the toy's own training events are more than may be in memory."""
    limit = config.data.memory_limit
    return limit is not None and config.budget.n_train * _event_bytes(config, toy) > 2 * limit // PARTS


def _event_bytes(config: ExperimentConfig, toy: Toy) -> int:
    """Bytes of x, theta, weight and label, and of the gold that a design asks for."""
    gold = 2 * toy.spec.theta_dim + 1 if config.design in ("pairs", "nominal") else 0
    return 4 * toy.spec.x_dim + 8 * (toy.spec.theta_dim + 2 + gold)


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Start of the SHA-256 of a file, read anew if its size or time of change is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]
