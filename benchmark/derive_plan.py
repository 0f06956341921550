"""What `touchneedle data derive` has to do: partitions of row groups that fit into a worker, planned before any event is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from touchneedle.conf.errors import InputError
from touchneedle.toys.feature_recipe import read_recipe
from touchneedle.toys.open_table import open_table
from touchneedle.toys.table_files import TableFile, is_number, require_same_columns

# Raised when chunks have other rows, or the same partition another content.
VERSION = "2"
PARTITION_BYTES = 32 * 2**20
# A worker holds its libraries, and a partition as it is read, with its derived columns, and as it is written.
WORKER_BYTES, COPIES = 400 * 10**6, 4
TEXT_BYTES = 32


@dataclass(frozen=True)
class Partition:
    """One task: some chunks of one file.

    Attributes:
        file: the input, absolute.
        identity: size in bytes and time of last change in ns, by which another content is told.
        columns: stored columns that are kept.
        derived: formulas by name.
        output: file that is written.
        n_bytes: in memory, with derived columns; a text counts 32.
    """

    file: str
    identity: tuple[int, int]
    tree: str
    chunks: tuple[int, ...]
    columns: tuple[str, ...]
    derived: dict[str, str]
    selection: str
    output: str
    n_bytes: int

    @property
    def key(self) -> str:
        """SHA-256 of all that decides the content."""
        told = {name: value for name, value in asdict(self).items() if name not in ("output", "n_bytes")}
        return hashlib.sha256(json.dumps({"version": VERSION, **told}, sort_keys=True).encode()).hexdigest()


def plan_partitions(
    files: Sequence[str | Path], output: str | Path, derived: Mapping[str, str], selection: str, tree: str = ""
) -> list[Partition]:
    """What is to be done, checked; no event is read. Raises `InputError` as `derive_tables` does."""
    if not derived and not selection:
        raise InputError("data derive: expected a --feature or a --select; got neither")
    recipe = read_recipe(derived, selection)
    tables = [open_table(file, tree) for file in files]
    for other in tables[1:]:
        require_same_columns(tables[0], other, dict.fromkeys([*tables[0].schema.names, *other.schema.names]))
    columns = tuple(field.name for field in tables[0].schema if _is_flat(field.type))
    tables[0].require(columns)
    recipe.check(columns)
    for name in recipe.inputs():
        kind = tables[0].schema.field(name).type
        if not (is_number(kind) or pa.types.is_boolean(kind)):
            raise InputError(f"event file {tables[0].path}: column {name!r}: expected numbers; it holds {kind}")
    parts = [(table, chunks) for table in tables for chunks in _groups(table, columns)]
    if not any(len(table) for table in tables):
        raise InputError(f"event file {tables[0].path}: expected events; it has 0 rows")
    names = [str((Path(output) / f"part-{number:05d}.parquet").resolve()) for number in range(len(parts))]
    made = dict(derived), selection
    return [_partition(table, tree, chunks, columns, *made, name) for (table, chunks), name in zip(parts, names, strict=True)]


def check_memory(partitions: Sequence[Partition], limit: int) -> None:
    """Raise `InputError` where a partition does not fit into workers of ``limit`` bytes, who would be killed."""
    largest = max(partitions, key=lambda partition: partition.n_bytes)
    needed = WORKER_BYTES + COPIES * largest.n_bytes
    if needed > limit:
        raise InputError(
            f"data derive: {largest.file}: a row group of {largest.n_bytes / 1e6:.0f} MB needs workers of {needed / 1e6:.0f} MB; "
            f"got --memory-limit {limit / 1e6:.0f} MB"
        )


def _partition(
    table: TableFile, tree: str, chunks: tuple[int, ...], columns: tuple[str, ...], derived: dict[str, str], selection: str, output: str
) -> Partition:
    about = table.path.stat()
    n_bytes = sum(table.chunk_rows[chunk] for chunk in chunks) * (_row_bytes(table.schema, columns) + 8 * len(derived))
    identity = about.st_size, about.st_mtime_ns
    return Partition(str(table.path.resolve()), identity, tree, chunks, columns, derived, selection, output, n_bytes)


def _groups(table: TableFile, columns: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Neighbouring chunks that make a partition: one at least, and as many as stay within 32 MB in memory."""
    limit = max(1, PARTITION_BYTES // _row_bytes(table.schema, columns))
    group: list[int] = []
    rows = 0
    for chunk, n in enumerate(table.chunk_rows):
        if group and rows + n > limit:
            yield tuple(group)
            group, rows = [], 0
        group.append(chunk)
        rows += n
    if group:
        yield tuple(group)


def _row_bytes(schema: pa.Schema, columns: Sequence[str]) -> int:
    """Bytes of a row in memory."""
    kinds = [schema.field(name).type for name in columns]
    return sum(-(-kind.bit_width // 8) if pa.types.is_primitive(kind) else TEXT_BYTES for kind in kinds)


def _is_flat(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)
