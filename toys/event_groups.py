"""Files of training events as the row groups that they are read by: where each lies, and its table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import ToySpec
from touchneedle.toys.event_layout import EventLayout, layout_of
from touchneedle.toys.table_files import ParquetTable, unreadable


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file: its number there, and its first row in the file (``first``) and among all events (``start``)."""

    path: Path
    metadata: pq.FileMetaData
    index: int
    first: int
    start: int
    rows: int


def find_files(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """The files that paths and patterns stand for; raises `InputError` for none, or for one that is there twice."""
    files = [file for path in paths for file in _matches(Path(path))]
    known: set[Path] = set()
    for file in files:
        if file.resolve() in known:
            raise InputError(f"event file {file}: expected each file once; its events would be counted twice")
        known.add(file.resolve())
    if not files:
        raise InputError("training events: expected a parquet file; got none")
    return tuple(files)


def _matches(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not any(file.is_file() for file in found):
        raise InputError(f"training events {path}: expected a parquet file, or a pattern such as 'events/*.parquet'; there is none")
    return [file for file in found if file.is_file()]


def open_files(paths: Sequence[Path], spec: ToySpec) -> tuple[EventLayout, list[RowGroup]]:
    """The layout that all files share, and their row groups; raises `InputError` for files of no events, broken, or not alike."""
    layouts: list[EventLayout] = []
    groups: list[RowGroup] = []
    for path in paths:
        metadata, schema = _footer(path)
        layouts.append(layout_of(path, schema, spec))
        _check_same(paths[0], layouts[0], path, layouts[-1])
        first = 0
        for index in range(metadata.num_row_groups):
            rows = metadata.row_group(index).num_rows
            start = groups[-1].start + groups[-1].rows if groups else 0
            groups.append(RowGroup(path, metadata, index, first, start, rows))
            first += rows
        if not first:
            raise InputError(f"event file {path}: expected events; it has 0 rows")
    return layouts[0], groups


def read_table(group: RowGroup, columns: Iterable[str]) -> pa.Table:
    """Some columns of a row group; raises `InputError` if they cannot be read."""
    try:
        # Neither a memory map nor a buffer of its own: memory is that of the table.
        with pq.ParquetFile(group.path, metadata=group.metadata, pre_buffer=False) as file:
            return file.read_row_group(group.index, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(group.path, ParquetTable.kind, error) from error


def _check_same(path: Path, layout: EventLayout, other_path: Path, other: EventLayout) -> None:
    for name in {**layout.types, **other.types}:
        here, there = layout.types.get(name, "missing"), other.types.get(name, "missing")
        if here != there:
            raise InputError(f"event file {other_path}: column {name!r} is {there}; expected {here}, as in {path}: write both alike")


def _footer(path: Path) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with pq.ParquetFile(path) as file:
            return file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, ParquetTable.kind, error) from error
