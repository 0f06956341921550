"""Reading a parquet file of weighted events, with one clear line for everything that can be wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError

__all__ = ["EventColumns", "read_event_file"]


@dataclass(frozen=True)
class EventColumns:
    """The columns of n events.

    Attributes:
        features: names of the d features, in the order of the columns of ``x``.
        discrete: whether each feature is stored as an integer.
        x: features (n, d), float32.
        weight: event weights (n,), float64.
        processes: sorted process names.
        label: process index (n,), int64.
        digest: first 12 hexadecimal digits of the SHA-256 of the file.
    """

    features: tuple[str, ...]
    discrete: tuple[bool, ...]
    x: NDArray[np.float32]
    weight: NDArray[np.float64]
    processes: tuple[str, ...]
    label: NDArray[np.int64]
    digest: str


def read_event_file(path: str, features: list[str] | None, weight: str, process: str, exclude: list[str]) -> EventColumns:
    """Read and check an event file; ``features=None`` takes all numeric columns but weight, process and ``exclude``.

    Raises:
        InputError: no such file, not parquet, truncated, no rows, a missing, repeated or non-numeric column,
            missing, NaN or infinite values, weights that are all zero. It names the file and the column.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"event file {file}: expected a parquet file; there is none")
    schema = _read_schema(file)
    chosen = features if features is not None else _numeric_columns(schema, {weight, process, *exclude})
    _check_columns(file, schema, chosen, weight, process)
    table = _read_table(file, list(dict.fromkeys([*chosen, weight, process])))
    processes, label = _processes(file, process, table.column(process))
    return EventColumns(
        features=tuple(chosen),
        discrete=tuple(pa.types.is_integer(schema.field(name).type) for name in chosen),
        x=np.stack([_numbers(file, name, table.column(name)).astype(np.float32) for name in chosen], axis=1),
        weight=_weights(file, weight, table.column(weight)),
        processes=processes,
        label=label,
        digest=_digest(file),
    )


def _read_schema(file: Path) -> pa.Schema:
    try:
        with pq.ParquetFile(file) as parquet:
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    if rows == 0:
        raise InputError(f"event file {file}: expected events; it has 0 rows")
    return schema


def _read_table(file: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            return parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"event file {file}: expected a complete parquet file; it is truncated or of another kind ({reason})")


def _numeric_columns(schema: pa.Schema, without: set[str]) -> list[str]:
    return [field.name for field in schema if field.name not in without and _is_numeric(field.type)]


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _check_columns(file: Path, schema: pa.Schema, features: list[str], weight: str, process: str) -> None:
    if not features:
        raise InputError(f"event file {file}: expected at least one numeric feature; its columns are {', '.join(schema.names)}")
    if len(set(features)) != len(features):
        raise InputError(f"event file {file}: expected each feature once; got {', '.join(features)}")
    for name in [*features, weight, process]:
        if name not in schema.names:
            raise InputError(f"event file {file}: no column {name!r}; its columns are {', '.join(schema.names)}")
        if schema.names.count(name) > 1:
            raise InputError(f"event file {file}: expected one column {name!r}; it has {schema.names.count(name)}")
    for name in [*features, weight]:
        if not _is_numeric(schema.field(name).type):
            raise InputError(f"event file {file}: column {name!r}: expected numbers; it holds {schema.field(name).type}")


def _numbers(file: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as finite numbers; what overflows float32 counts as infinite."""
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    wrong = np.flatnonzero(~(np.abs(values) <= np.finfo(np.float32).max))
    if len(wrong):
        raise InputError(
            f"event file {file}: column {name!r}: expected finite numbers; "
            f"{len(wrong)} of {len(values)} are missing, NaN or infinite, the first in row {wrong[0]}"
        )
    return values


def _weights(file: Path, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    weight = _numbers(file, name, column)
    if not weight.any():
        raise InputError(f"event file {file}: column {name!r}: expected weights; all {len(weight)} are zero")
    return weight


def _processes(file: Path, name: str, column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sorted process names, and the index of each event's process."""
    if column.null_count:
        raise InputError(f"event file {file}: column {name!r}: expected a process for every event; {column.null_count} have none")
    try:
        names = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException as error:
        raise InputError(f"event file {file}: column {name!r}: expected process names; it holds {column.type}") from error
    known = names.dictionary.to_pylist()
    rank = np.argsort(np.argsort(np.array(known)))
    return tuple(sorted(known)), rank[names.indices.to_numpy()].astype(np.int64)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
