"""Files of training events as the row groups that they are read by: where each lies, and its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import ToySpec
from touchneedle.toys.event_layout import EventLayout, layout_of
from touchneedle.toys.open_table import open_table
from touchneedle.toys.table_files import TableFile


@dataclass(frozen=True)
class RowGroup:
    """A chunk of a file: its number there, and its first row in the file (``first``) and among all events (``start``)."""

    file: TableFile
    index: int
    first: int
    start: int

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.file.path

    @property
    def rows(self) -> int:
        """Number of its events."""
        return self.file.chunk_rows[self.index]

    def columns(self, names: Sequence[str]) -> Iterator[pa.ChunkedArray]:
        """Some of its columns, one after the other; raises `InputError` if they cannot be read."""
        return self.file.columns(names, self.index)


def find_files(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """The files that paths and patterns stand for; raises `InputError` for none, or for one that is there twice."""
    files = [file for path in paths for file in _matches(Path(path))]
    known: set[Path] = set()
    for file in files:
        if file.resolve() in known:
            raise InputError(f"event file {file}: expected each file once; its events would be counted twice")
        known.add(file.resolve())
    if not files:
        raise InputError("training events: expected a parquet or ROOT file; got none")
    return tuple(files)


def _matches(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not any(file.is_file() for file in found):
        raise InputError(f"training events {path}: expected a parquet or ROOT file, or a pattern such as 'events/*.parquet'; there is none")
    return [file for file in found if file.is_file()]


def open_files(paths: Sequence[Path], spec: ToySpec, tree: str = "") -> tuple[EventLayout, list[RowGroup]]:
    """The layout that all files share, and their row groups; raises `InputError` for files of no events, broken, or not alike."""
    layouts: list[EventLayout] = []
    groups: list[RowGroup] = []
    start = 0
    for path in paths:
        file = open_table(path, tree)
        layouts.append(layout_of(path, file.schema, spec))
        _check_same(paths[0], layouts[0], path, layouts[-1])
        if not len(file):
            raise InputError(f"event file {path}: expected events; it has 0 rows")
        first = 0
        for index, rows in enumerate(file.chunk_rows):
            groups.append(RowGroup(file, index, first, start + first))
            first += rows
        start += first
    return layouts[0], groups


def _check_same(path: Path, layout: EventLayout, other_path: Path, other: EventLayout) -> None:
    for name in {**layout.types, **other.types}:
        here, there = layout.types.get(name, "missing"), other.types.get(name, "missing")
        if here != there:
            raise InputError(f"event file {other_path}: column {name!r} is {there}; expected {here}, as in {path}: write both alike")
