"""ROOT files as tables: a TTree or an RNTuple, read by uproot (extra ``hep``), which is imported when a file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from touchneedle.conf.errors import InputError
from touchneedle.toys.table_files import TableFile, unreadable

__all__ = ["RootTable"]

# Small enough for many of them to be shuffled together.
CHUNK_ROWS = 2**16
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
    """A TTree or an RNTuple of a ROOT file; its chunks are ranges of at most 2^16 entries, which begin with a cluster where they can."""

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
                self._edges = _chunk_edges(_cluster_edges(columns))
        except InputError:
            raise
        except self.errors as error:
            raise unreadable(path, self.kind, error) from error
        self.chunk_rows = tuple(stop - start for start, stop in pairwise(self._edges))

    def _read(self, columns: list[str], chunks: Iterable[int]) -> Iterator[pa.Table]:
        with self._open() as file:
            tree = file[self.tree]
            for chunk in chunks:
                where = {"entry_start": self._edges[chunk], "entry_stop": self._edges[chunk + 1]}
                yield pa.table({name: pa.array(tree[name].array(library="np", **where)) for name in columns})

    def _open(self) -> Any:
        # As a dictionary, so that a colon in the path is no separator. What has been read is not kept: memory is that of the table.
        return self._uproot.open({str(self.path): None}, array_cache=None)


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


def _cluster_edges(tree: Any) -> list[int]:
    """Where the clusters of an RNTuple begin, or all branches of a TTree a basket at once; and the number of entries."""
    entries = int(tree.num_entries)
    if hasattr(tree, "cluster_summaries"):
        starts = [int(cluster.num_first_entry) for cluster in tree.cluster_summaries]
    else:
        starts = [int(offset) for offset in tree.common_entry_offsets()]
    return sorted({0, *starts, entries})


def _chunk_edges(clusters: Sequence[int]) -> list[int]:
    """Neighbouring clusters together as long as they have few enough entries; larger ones in parts."""
    edges = [0]
    for start, stop in pairwise(clusters):
        if stop - edges[-1] > CHUNK_ROWS and start > edges[-1]:
            edges.append(start)
        edges.extend(range(edges[-1] + CHUNK_ROWS, stop, CHUNK_ROWS))
    return [*edges, clusters[-1]] if clusters[-1] else edges


def _type(typename: str) -> pa.DataType:
    """The type of a column from its name in C++."""
    plain = re.sub(r"^std::|_t$", "", typename)
    if plain in _NUMBERS:
        return _NUMBERS[plain]
    if plain in ("string", "char*", "TString"):
        return pa.string()
    return pa.list_(pa.float64()) if "vector<" in plain or "[" in plain else pa.struct([])
