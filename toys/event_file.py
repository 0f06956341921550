"""Reading files of weighted events into memory, with one clear line for everything that can be wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.event_query import EventQuery, ProcessFiles
from touchneedle.toys.feature_recipe import read_recipe
from touchneedle.toys.open_table import open_table

__all__ = ["EventColumns", "read_event_file", "read_events"]


@dataclass(frozen=True)
class EventColumns:
    """The columns of n events.

    Attributes:
        features: names of the d features, in the order of the columns of ``x``.
        discrete: whether each feature is stored as an integer, or is true or false.
        x: features (n, d), float32.
        weight: event weights (n,), float64.
        processes: process names; sorted where a column holds them.
        label: process index (n,), int64.
        digest: first 12 hexadecimal digits of the SHA-256 of the file; of the hashes of all files, where there are several.
        other_weights: further weights (n, q), float64.
        inputs: stored columns (n, c) that features and selection are computed from, float64; none unless all events are kept.
        selected: whether the selection keeps each event (n,).
        sample: number of each event's sample (n,), int64: 0 but for systematic variations.
        event_id: the number of each event (n,), int64, the same for its shifted copies; None where the query asks for none.
    """

    features: tuple[str, ...]
    discrete: tuple[bool, ...]
    x: NDArray[np.float32]
    weight: NDArray[np.float64]
    processes: tuple[str, ...]
    label: NDArray[np.int64]
    digest: str
    other_weights: NDArray[np.float64]
    inputs: NDArray[np.float64]
    selected: NDArray[np.bool_]
    sample: NDArray[np.int64]
    event_id: NDArray[np.int64] | None


def read_event_file(path: str, features: list[str] | None, weight: str, process: str, exclude: list[str]) -> EventColumns:
    """Read and check one file; ``features=None`` takes all numeric columns but weight, process and ``exclude``.

    Raises `InputError` as `read_events` does.
    """
    source = ProcessFiles(None, (open_table(path),), (weight,))
    chosen = None if features is None else tuple(features)
    return read_events(EventQuery((source,), chosen, read_recipe({}, ""), process, tuple(exclude)))


def read_events(query: EventQuery) -> EventColumns:
    """Read and check the events of all files of a query.

    Raises:
        InputError: a file that is truncated, no rows or none that is selected, a missing, repeated or non-numeric column, files that
            disagree on a column, missing, NaN or infinite values among the selected events, weights that are all zero. It names
            the file and the column.
    """
    query.check()
    parts = [part for source in query.sources for part in _read_source(query, source)]
    names, label = _processes(query, parts)
    weights = np.concatenate([part.weights for part in parts])
    if not weights[:, 0].any():
        column = query.sources[0].weights[0]
        raise InputError(f"event file {query.first.path}: column {column!r}: expected weights; all {len(weights)} are zero")
    return EventColumns(
        features=query.chosen,
        discrete=tuple(query.is_discrete(name) for name in query.chosen),
        x=np.concatenate([part.x for part in parts]),
        weight=weights[:, 0],
        processes=names,
        label=label,
        digest=_digest([file.path for source in query.sources for file in source.files]),
        other_weights=weights[:, 1:],
        inputs=np.concatenate([part.inputs for part in parts]),
        selected=np.concatenate([part.selected for part in parts]),
        sample=np.concatenate([np.full(len(part.x), part.source.sample, dtype=np.int64) for part in parts]),
        event_id=np.concatenate([part.event_id for part in parts]) if query.event_id else None,
    )


@dataclass(frozen=True)
class _Part:
    """What is kept of one chunk; ``processes`` are names, or None where the files say it."""

    source: ProcessFiles
    x: NDArray[np.float32]
    weights: NDArray[np.float64]
    inputs: NDArray[np.float64]
    selected: NDArray[np.bool_]
    processes: pa.ChunkedArray | None
    event_id: NDArray[np.int64]


def _read_source(query: EventQuery, source: ProcessFiles) -> list[_Part]:
    rows = sum(len(file) for file in source.files)
    where = f"event file {source.files[0].path}{'' if source.process is None else f': process {source.process!r}'}"
    if rows == 0:
        raise InputError(f"{where}: expected events; it has 0 rows")
    labels = [query.process] if source.process is None else []
    columns = list(dict.fromkeys([*query.inputs, *source.weight_columns, *labels, *query.id_columns]))
    parts = []
    before = 0
    for file in source.files:
        start = 0
        for table in file.read(columns):
            parts.append(_read_chunk(query, source, _Chunk(file.path, table, start, before + start)))
            start += len(table)
        before += start
    if query.recipe.selection is not None and not any(part.selected.any() for part in parts):
        raise InputError(f"{where}: selection {query.recipe.selection.text!r} leaves none of {rows} events; loosen it")
    return parts


def _read_chunk(query: EventQuery, source: ProcessFiles, chunk: _Chunk) -> _Part:
    stored = {name: chunk.numbers(name) for name in query.inputs}
    columns, selected = query.recipe.evaluate(stored)
    kept = np.ones_like(selected) if query.keep_all else selected
    for name in query.chosen:
        chunk.check_finite(name, columns[name], selected)
    for name in (*source.weight_columns, *(query.inputs if query.keep_all else ())):
        chunk.check_finite(name, chunk.numbers(name), kept)
    with np.errstate(over="ignore"):
        x = np.stack([columns[name][kept].astype(np.float32) for name in query.chosen], axis=1)
    weights = [np.ones(len(chunk.table)) if name is None else chunk.numbers(name) for name in source.weights]
    inputs = [stored[name][kept] for name in query.inputs] if query.keep_all else []
    return _Part(
        source,
        # What is not selected has weight 0: any finite number does for what its formulas leave undefined.
        np.where(selected[kept, None], x, np.nan_to_num(x)),
        np.stack(weights, axis=1)[kept],
        np.stack(inputs, axis=1) if inputs else np.empty((int(kept.sum()), 0)),
        selected[kept],
        chunk.names(query.process, kept) if source.process is None else None,
        chunk.event_id(query.id_columns)[kept],
    )


@dataclass(frozen=True)
class _Chunk:
    """A piece of a file, from row ``start`` on, which is row ``number`` of the files of its process."""

    path: Path
    table: pa.Table
    start: int
    number: int

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as float64 (n,), NaN where it has nothing."""
        values: NDArray[np.float64] = self.table.column(name).cast(pa.float64(), safe=False).to_numpy()
        return values

    def event_id(self, columns: Sequence[str]) -> NDArray[np.int64]:
        """The column of event numbers (n,), or row numbers if there is none."""
        if not columns:
            return np.arange(self.number, self.number + len(self.table))
        (name,) = columns
        column = self.table.column(name)
        if column.null_count:
            raise InputError(f"event file {self.path}: column {name!r}: expected a number for every event; {column.null_count} have none")
        values: NDArray[np.int64] = column.cast(pa.int64(), safe=False).to_numpy()
        return values

    def names(self, name: str, kept: NDArray[np.bool_]) -> pa.ChunkedArray:
        """A column of process names, of the events that are kept."""
        column = self.table.column(name)
        try:
            return column.cast(pa.string()).filter(pa.array(kept))
        except pa.ArrowException as error:
            raise InputError(f"event file {self.path}: column {name!r}: expected process names; it holds {column.type}") from error

    def check_finite(self, name: str, values: NDArray[Any], rows: NDArray[np.bool_]) -> None:
        """Raise `InputError` for values that are not finite in some of the rows; what overflows float32 counts as infinite."""
        wrong = np.flatnonzero(rows & ~(np.abs(values) <= np.finfo(np.float32).max))
        if len(wrong):
            raise InputError(
                f"event file {self.path}: column {name!r}: expected finite numbers; {len(wrong)} of {len(values)} rows "
                f"from row {self.start} on are missing, NaN or infinite, the first is row {self.start + wrong[0]}"
            )


def _processes(query: EventQuery, parts: Sequence[_Part]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Process names, and the index of each event's process."""
    if query.sources[0].process is not None:
        known = tuple(dict.fromkeys(source.process or "" for source in query.sources))
        return known, np.concatenate([np.full(len(part.x), known.index(part.source.process or ""), dtype=np.int64) for part in parts])
    column = pa.chunked_array([chunk for part in parts if part.processes is not None for chunk in part.processes.chunks], pa.string())
    if column.null_count:
        where = f"event file {query.first.path}: column {query.process!r}"
        raise InputError(f"{where}: expected a process for every event; {column.null_count} have none")
    names = column.combine_chunks().dictionary_encode()
    found = names.dictionary.to_pylist()
    rank = np.argsort(np.argsort(np.array(found)))
    return tuple(sorted(found)), rank[names.indices.to_numpy()].astype(np.int64)


def _digest(files: Sequence[Path]) -> str:
    hashes = []
    for file in files:
        with file.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return (hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest())[:12]
