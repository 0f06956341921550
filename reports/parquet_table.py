"""The rows of ``leaderboard.csv`` as parquet, with numbers as numbers; equal rows give equal bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet

from touchneedle.reports.text_tables import CSV_FIELDS

_FLOATS = frozenset({"value", "stderr", "mean_abs", "null"})
_WHOLE = frozenset({"n_train", "rank", "n_seeds"})


def to_parquet(rows: str) -> bytes:
    """The text of the CSV file as parquet; an empty field is null."""
    lines = list(csv.DictReader(io.StringIO(rows)))
    columns = {name: pyarrow.array([_parsed(line[name], _parser(name)) for line in lines], _type(name)) for name in CSV_FIELDS}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def _type(name: str) -> pyarrow.DataType:
    if name in _FLOATS:
        return pyarrow.float64()
    return pyarrow.int64() if name in _WHOLE else pyarrow.string()


def _parser(name: str) -> Callable[[str], Any]:
    if name in _FLOATS:
        return float
    return int if name in _WHOLE else str


def _parsed(text: str, parser: Callable[[str], Any]) -> Any:
    return parser(text) if text else None
