"""Training events in parquet or ROOT files: which column is what, and how they are written as parquet.

    NAME                 for each feature: x, kept in float32
    theta_NAME           for each parameter: the point that the event stands for
    weight               of the event, float32 or float64
    label                index of its process in ``spec.processes`` (optional)
    generated_at_NAME    for each parameter: the point that generated the event (optional; theta unless said)
    joint_log_ratio      mined gold, with joint_score_NAME for each parameter (optional)

A feature that can be missing holds its mark (`Feature.missing`) or null where it is. Other columns are not read.
`touchneedle.toys.event_stream.EventStream` reads such files.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import ToySpec
from touchneedle.toys.events import Events, EventSource, in_batches

# Rows that are read at a time: large enough for fast reading, small enough for many of them to be shuffled together.
ROW_GROUP = 2**17
_PAD = 16
_REQUIRED = ("x", "theta", "weight")
_VECTORS = ("weight", "label", "joint_log_ratio")
_FLOAT64 = ("theta", "generated_at")
# Mined gold may be infinite where a support ends; the estimators that learn from it check it.
_FINITE = ("x", "theta", "weight", "generated_at")


def column_names(spec: ToySpec) -> dict[str, tuple[str, ...]]:
    """Names of the columns of each field of `Events`; raises `InputError` for a feature that is called like another column."""
    features, parameters = tuple(feature.name for feature in spec.features), spec.parameters.names
    columns = {"x": features, "theta": tuple(f"theta_{name}" for name in parameters), "weight": ("weight",), "label": ("label",)}
    columns["generated_at"] = tuple(f"generated_at_{name}" for name in parameters)
    columns |= {"joint_log_ratio": ("joint_log_ratio",), "joint_score": tuple(f"joint_score_{name}" for name in parameters)}
    names = [name for group in columns.values() for name in group]
    twice = [name for name in features if names.count(name) > 1]
    if twice:
        raise InputError(f"toy {spec.name}: expected features of other names than the columns of training events; got {twice[0]!r}")
    return columns


@dataclass(frozen=True)
class EventLayout:
    """The columns of a file of training events.

    Attributes:
        types: stored type of each column that is read, by name.
    """

    spec: ToySpec
    types: Mapping[str, pa.DataType]

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of each field of `Events` that is there."""
        return {field: names for field, names in column_names(self.spec).items() if all(name in self.types for name in names)}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All columns that are read, in the order of the fields."""
        return tuple(name for names in self.columns.values() for name in names)

    @cached_property
    def event_bytes(self) -> int:
        """Bytes that an event takes in memory."""
        return sum(len(names) * self._dtype(field).itemsize for field, names in self.columns.items())

    def empty(self, n: int, order: Literal["C", "F"] = "C") -> Events:
        """Room for ``n`` events with these columns, row by row (C) or column by column (F)."""
        shapes = {field: (n,) if field in _VECTORS else (n, len(names)) for field, names in self.columns.items()}
        fields: dict[str, Any] = {field: torch.from_numpy(np.empty(shape, self._dtype(field), order)) for field, shape in shapes.items()}
        return Events(**fields)

    def put(self, columns: Iterator[pa.ChunkedArray], room: Events, file: Path, first: int, *, check: bool = True) -> None:
        """Write events, given as the columns called `names`, into ``room`` for them, as `empty` makes it.

        They are rows of ``file`` from ``first`` on. Raises `InputError` naming file and column for what is no number; ``check=False``
        is for what was read before.
        """
        for field, names in self.columns.items():
            rows = getattr(room, field).numpy().reshape(len(room), -1)
            numbers = (self._numbers(next(columns), name, file, first) for name in names)
            finite = _turn(numbers, rows, check=check and field in _FINITE)
            if check:
                self._check(field, rows, finite, file, first)

    def _check(self, field: str, rows: NDArray[Any], finite: bool, file: Path, first: int) -> None:
        """Raise `InputError` for values of a field that are not what they should be."""
        if not finite and not (each := np.isfinite(rows)).all():
            column = int(each.all(0).argmin())
            raise _refusal(file, self.columns[field][column], "finite numbers", "missing, NaN or infinite", ~each[:, column], first)
        if field == "label" and not (known := (rows[:, 0] >= 0) & (rows[:, 0] < len(self.spec.processes))).all():
            raise _refusal(file, "label", f"an index below {len(self.spec.processes)}, of a process", "no such number", ~known, first)
        if field == "theta":
            self._check_theta(rows, file, first)

    def _check_theta(self, rows: NDArray[Any], file: Path, first: int) -> None:
        try:
            self.spec.parameters.check(torch.from_numpy(np.stack([rows.min(0), rows.max(0)])))
        except InputError as error:
            raise InputError(f"event file {file}: rows {first} to {first + len(rows) - 1}: {error}") from error

    def _numbers(self, column: pa.ChunkedArray, name: str, file: Path, first: int) -> NDArray[Any]:
        """A column (n,), not copied if it can be helped."""
        whole = self._without_nulls(column, name, file, first)
        return (whole.chunk(0) if whole.num_chunks == 1 else whole).to_numpy(zero_copy_only=False)

    def _without_nulls(self, column: pa.ChunkedArray, name: str, file: Path, first: int) -> pa.ChunkedArray:
        if not column.null_count:
            return column
        mark = next((feature.missing for feature in self.spec.features if feature.name == name), None)
        if mark is None:
            raise _refusal(file, name, "finite numbers", "missing", column.is_null().to_numpy(), first)
        return column.fill_null(pa.scalar(mark).cast(column.type))

    def _dtype(self, field: str) -> np.dtype[Any]:
        if field == "label":
            return np.dtype(np.int64)
        narrow = all(self.types[name] == pa.float32() for name in self.columns[field])
        return np.dtype(np.float32 if field == "x" or (narrow and field not in _FLOAT64) else np.float64)


def layout_of(file: Path, schema: pa.Schema, spec: ToySpec) -> EventLayout:
    """The layout of a file; raises `InputError` for a column that is missing, there twice, or of another kind."""
    types: dict[str, pa.DataType] = {}
    for field, names in column_names(spec).items():
        absent = [name for name in names if name not in schema.names]
        if field not in _REQUIRED and len(absent) == len(names):
            continue
        if absent:
            raise InputError(f"event file {file}: no column {absent[0]!r}; its columns are {', '.join(schema.names)}")
        for name in names:
            _check_column(file, schema, name, whole=field == "label")
            types[name] = schema.field(name).type
    return EventLayout(spec, types)


def write_events(path: str | Path, events: EventSource | Iterable[Events], spec: ToySpec, row_group: int = ROW_GROUP) -> Path:
    """Write training events as a parquet file, whole or not at all; returns its path.

    Args:
        path: the file; one that is there is replaced.
        events: a source, or parts that are written one after the other, so that memory is that of one part; ``base`` is left out.
        row_group: events that are read at a time; many row groups should fit into a tenth of ``data.memory_limit``.

    Raises `InputError` for no events, or a file that cannot be written.
    """
    path = Path(path)
    parts = in_batches(events.batches(row_group) if isinstance(events, EventSource) else events, row_group)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, (_table(part, spec) for part in parts), path)
        os.replace(temporary, path)
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}: {reason}; choose a writable folder with free space") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _write(file: Path, tables: Iterator[pa.Table], path: Path) -> None:
    first = next(tables, None)
    if first is None:
        raise InputError(f"cannot write {path}: expected training events; there are none")
    # Numbers of a simulation hardly repeat: a dictionary of them only costs time.
    with pq.ParquetWriter(file, first.schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _table(events: Events, spec: ToySpec) -> pa.Table:
    columns: dict[str, NDArray[Any]] = {}
    for field, names in column_names(spec).items():
        value: Tensor | None = getattr(events, field)
        if value is not None:
            columns |= zip(names, value.detach().cpu().reshape(len(events), -1).T.contiguous().numpy(), strict=True)
    return pa.table(columns)


def _check_column(file: Path, schema: pa.Schema, name: str, *, whole: bool) -> None:
    if schema.names.count(name) > 1:
        raise InputError(f"event file {file}: expected one column {name!r}; it has {schema.names.count(name)}")
    kind = schema.field(name).type
    if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not whole)):
        raise InputError(f"event file {file}: column {name!r}: expected {'whole numbers' if whole else 'numbers'}; it holds {kind}")


def _turn(columns: Iterable[NDArray[Any]], rows: NDArray[Any], *, check: bool) -> bool:
    """Write k columns (n,) as rows (n, k), which may lie column by column, and say whether their sum is finite, if that is to be checked.

    A sum is finite unless a value is not, or it overflows; what overflows float32 becomes infinite. By few long calls, since a thread
    waits for the interpreter after each.
    """
    n, k = rows.shape
    # No power of two apart, as columns would push each other out of the cache then.
    stacked = rows.T if rows.flags.f_contiguous else np.empty((k, n + _PAD), rows.dtype)[:, :n]
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for row, column in zip(stacked, columns, strict=True):
            row[:] = column
            total += float(row.sum()) if check else 0.0
    if not rows.flags.f_contiguous:
        rows[:] = stacked.T
    return bool(np.isfinite(total))


def _refusal(file: Path, name: str, expected: str, got: str, wrong: NDArray[np.bool_], first: int) -> InputError:
    found = np.flatnonzero(wrong)
    return InputError(
        f"event file {file}: column {name!r}: expected {expected}; {len(found)} of rows {first} to {first + len(wrong) - 1} "
        f"are {got}, the first in row {first + found[0]}"
    )
