"""Tables of parquet files as ROOT files."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest


def as_root(parquet: Path, kind: str = "tree", cluster: int = 20, tree: str = "events") -> Path:
    """The columns of a parquet file as a TTree or an RNTuple of a ROOT file beside it, with clusters of so many entries."""
    uproot = pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
    table = pq.read_table(parquet)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    path = parquet.with_suffix(".root")
    with uproot.recreate(path) as file:
        made = (file.mkrntuple if kind == "rntuple" else file.mktree)(tree, {name: values.dtype for name, values in columns.items()})
        for start in range(0, len(table), cluster):
            made.extend({name: values[start : start + cluster] for name, values in columns.items()})
    return path
