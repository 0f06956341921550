"""ROOT files as tables: a TTree or an RNTuple, read by uproot (extra ``hep``), which is imported when a file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from touchneedle.conf.errors import InputError
from touchneedle.toys.table_files import TableFile, unreadable

__all__ = ["RootTable"]

CHUNK_ROWS = 2**18
_TREES = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")
_NUMBERS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
}


class RootTable(TableFile):
    """A TTree or an RNTuple of a ROOT file; its chunks are ranges of 2^18 entries, whatever its baskets or clusters."""

    kind = "ROOT"
    # A damaged file may raise anything.
    errors = (Exception,)

    def __init__(self, path: Path, tree: str) -> None:
        self.path = path
        self._uproot = _import_uproot(path)
        try:
            with self._open() as file:
                classes = {name.partition(";")[0]: kind for name, kind in file.classnames().items()}
                self.tree = _chosen(path, tree, [name for name, kind in classes.items() if kind in _TREES])
                columns = file[self.tree]
                self.schema = pa.schema([(name, _type(columns[name].typename)) for name in columns.keys()])  # noqa: SIM118  no mapping
                rows = int(columns.num_entries)
        except InputError:
            raise
        except self.errors as error:
            raise unreadable(path, self.kind, error) from error
        self.chunk_rows = tuple(min(CHUNK_ROWS, rows - start) for start in range(0, rows, CHUNK_ROWS))

    def _read(self, columns: list[str], chunks: Iterable[int]) -> Iterator[pa.Table]:
        with self._open() as file:
            tree = file[self.tree]
            for chunk in chunks:
                start = chunk * CHUNK_ROWS
                where = {"entry_start": start, "entry_stop": start + self.chunk_rows[chunk]}
                yield pa.table({name: pa.array(tree[name].array(library="np", **where)) for name in columns})

    def _open(self) -> Any:
        # As a dictionary, so that a colon in the path is no separator.
        return self._uproot.open({str(self.path): None})


def _import_uproot(path: Path) -> Any:
    try:
        return import_module("uproot")
    except ModuleNotFoundError as error:
        raise InputError(f"event file {path}: a ROOT file needs the package uproot; pip install 'touchneedle[hep]'") from error


def _chosen(path: Path, tree: str, trees: list[str]) -> str:
    """The tree that is asked for, or the only one."""
    known = ", ".join(trees) or "none"
    if tree and tree not in trees:
        raise InputError(f"event file {path}: no tree {tree!r}; its trees are {known}")
    if not tree and len(trees) != 1:
        raise InputError(f"event file {path}: expected one tree, or the option tree to choose one; its trees are {known}")
    return tree or trees[0]


def _type(typename: str) -> pa.DataType:
    """The type of a column from its name in C++."""
    plain = re.sub(r"^std::|_t$", "", typename)
    if plain in _NUMBERS:
        return _NUMBERS[plain]
    if plain in ("string", "char*", "TString"):
        return pa.string()
    return pa.list_(pa.float64()) if "vector<" in plain or "[" in plain else pa.struct([])
