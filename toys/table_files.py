"""Tables on disk behind one face: parquet or ROOT, read column by column and chunk by chunk, with one clear line for what is wrong.

A chunk is what a file stores together: a row group of parquet, a range of entries of ROOT. What reads them need not know which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from touchneedle.conf.errors import InputError

__all__ = ["ParquetTable", "TableFile", "is_number", "require_same_columns", "unreadable"]

_COLUMNS_AT_ONCE = 4


class TableFile(ABC):
    """Abstract. One file with a table in it, opened whenever it is read; made by `open_table`.

    Attributes:
        schema: names and types of the columns. What ROOT has beyond numbers, truths and text stands as a list or a struct.
        chunk_rows: number of rows in each chunk.
    """

    kind: ClassVar[str]
    # What the reading library raises on files that are not what they should be.
    errors: ClassVar[tuple[type[Exception], ...]]
    path: Path
    schema: pa.Schema
    chunk_rows: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.chunk_rows)

    def read(self, columns: Sequence[str], chunks: Iterable[int] | None = None) -> Iterator[pa.Table]:
        """Some columns of all chunks, or of those numbered ``chunks``, one table a chunk.

        Raises `InputError` for a column that is not there once, and for a file that turns out to be truncated or corrupt.
        """
        self.require(columns)
        numbers = range(len(self.chunk_rows)) if chunks is None else chunks
        try:
            yield from self._read(list(columns), numbers)
        except self.errors as error:
            raise unreadable(self.path, self.kind, error) from error

    def columns(self, names: Sequence[str], chunk: int) -> Iterator[pa.ChunkedArray]:
        """Some columns of one chunk, one after the other, of which few are in memory at a time where the format allows it.

        Raises `InputError` for a file that turns out to be truncated or corrupt.
        """
        try:
            yield from self._columns(names, chunk)
        except self.errors as error:
            raise unreadable(self.path, self.kind, error) from error

    def require(self, columns: Iterable[str]) -> None:
        """Raise `InputError` unless each of the columns is there, and once."""
        for name in columns:
            if name not in self.schema.names:
                raise InputError(f"event file {self.path}: no column {name!r}; its columns are {', '.join(self.schema.names)}")
            if self.schema.names.count(name) > 1:
                raise InputError(f"event file {self.path}: expected one column {name!r}; it has {self.schema.names.count(name)}")

    @abstractmethod
    def _read(self, columns: list[str], chunks: Iterable[int]) -> Iterator[pa.Table]: ...

    def _columns(self, names: Sequence[str], chunk: int) -> Iterator[pa.ChunkedArray]:
        for table in self._read(list(names), [chunk]):
            yield from map(table.column, names)


class ParquetTable(TableFile):
    """A parquet file; its chunks are its row groups. Its footer is read once; who wants threads reads several chunks at a time."""

    kind = "parquet"
    errors = (pa.ArrowException, OSError)

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                self._footer, self.schema = file.metadata, file.schema_arrow
            self.chunk_rows = tuple(self._footer.row_group(group).num_rows for group in range(self._footer.num_row_groups))
        except self.errors as error:
            raise unreadable(path, self.kind, error) from error

    def _read(self, columns: list[str], chunks: Iterable[int]) -> Iterator[pa.Table]:
        with self._open() as file:
            for group in chunks:
                yield file.read_row_group(group, columns=columns, use_threads=False)

    def _columns(self, names: Sequence[str], chunk: int) -> Iterator[pa.ChunkedArray]:
        # What has been decoded is still in the cache when it is used, which whole row groups in several threads are not.
        with self._open() as file:
            for few in (names[start : start + _COLUMNS_AT_ONCE] for start in range(0, len(names), _COLUMNS_AT_ONCE)):
                table = file.read_row_group(chunk, columns=list(few), use_threads=False)
                yield from map(table.column, few)

    def _open(self) -> pq.ParquetFile:
        # Neither a memory map nor a buffer of its own: memory is that of the table.
        return pq.ParquetFile(self.path, metadata=self._footer, pre_buffer=False)


def require_same_columns(first: TableFile, other: TableFile, names: Iterable[str]) -> None:
    """Raise `InputError` naming both files and the first of the columns that is not of one type in both."""
    for name in names:
        kinds = [_described(file, name) for file in (first, other)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"event files {first.path} and {other.path}: expected the same columns; {name!r} is {kinds[0]} in the first "
                f"and {kinds[1]} in the second"
            )


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def unreadable(path: Path, kind: str, error: Exception) -> InputError:
    """The one line for a file that a library cannot read."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(f"event file {path}: expected a complete {kind} file; it is truncated or of another kind ({reason})")


def _described(file: TableFile, name: str) -> str:
    return str(dict(zip(file.schema.names, file.schema.types, strict=True)).get(name, "missing"))
