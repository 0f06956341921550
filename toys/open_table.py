"""Opening the table in a file, whatever its format."""

from __future__ import annotations

from pathlib import Path

from touchneedle.conf.errors import InputError
from touchneedle.toys.root_files import RootTable
from touchneedle.toys.table_files import ParquetTable, TableFile

__all__ = ["open_table", "open_tables"]


def open_table(path: str | Path, tree: str = "") -> TableFile:
    """The table in a file: ROOT if its name ends in .root, parquet otherwise.

    Args:
        path: the file.
        tree: the TTree or RNTuple of a ROOT file; by default the only one.

    Raises:
        InputError: no such file, not of its kind, truncated, no such tree, ROOT without the package uproot.
    """
    file = Path(path)
    is_root = file.suffix.lower() == ".root"
    if not file.is_file():
        raise InputError(f"event file {file}: expected a {'ROOT' if is_root else 'parquet'} file; there is none")
    if is_root:
        return RootTable(file, tree)
    return ParquetTable(file)


def open_tables(path: str | Path, tree: str = "") -> tuple[TableFile, ...]:
    """The tables in the file, or in those that a pattern such as ``events_*.parquet`` stands for, in the order of their names.

    Raises `InputError` as `open_table` does.
    """
    where = Path(path)
    found = [] if where.is_file() else sorted(Path(where.anchor).glob(str(where.relative_to(where.anchor))))
    return tuple(open_table(file, tree) for file in found or [where])
