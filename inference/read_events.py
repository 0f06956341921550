"""Reading real events from a parquet file, by the names of the features, with one clear line for everything that can be wrong."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Feature, ToySpec

WEIGHT = "weight"


def read_events(path: str | Path, toy: ToySpec, weight: str = "") -> Events:
    """The events in a parquet file, with the features of ``toy`` in its order, whatever the order of the columns.

    Args:
        path: the file; columns that are neither features nor weight are ignored.
        toy: what a bundle was trained for.
        weight: column of event weights; "" takes ``weight`` if there is one, else every event counts once.

    Returns:
        x (n, d) and weights (n,) in float64; ``theta`` is nominal and means nothing.

    Raises:
        InputError: no such file, not parquet, no events, a missing, repeated or non-numeric column, values that are not
            finite or outside a feature's support, weights without a positive sum. It names the file and the column.
    """
    file = Path(path)
    table = _read(file, [feature.name for feature in toy.features], weight)
    if not table.num_rows:
        raise InputError(f"event file {file}: expected events; it has 0 rows")
    x = np.stack([_feature(file, feature, table) for feature in toy.features], 1)
    return Events(
        x=torch.from_numpy(x),
        theta=toy.parameters.nominal.expand(len(x), -1),
        weight=torch.from_numpy(_weights(file, weight or WEIGHT, table)),
    )


def _read(file: Path, features: list[str], weight: str) -> pa.Table:
    if not file.is_file():
        raise InputError(f"event file {file}: expected a parquet file; there is none")
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            _check_columns(file, names, [*features, *([weight] if weight else [])])
            extra = [weight or WEIGHT] if (weight or WEIGHT) in names else []
            return parquet.read(columns=list(dict.fromkeys([*features, *extra])))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"event file {file}: expected a complete parquet file; it is truncated or of another kind ({reason})") from error


def _check_columns(file: Path, names: list[str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        close = difflib.get_close_matches(missing[0], names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"event file {file}: no column {', '.join(map(repr, missing))}{hint}; its columns are {', '.join(names)}")
    for name in wanted:
        if names.count(name) > 1:
            raise InputError(f"event file {file}: expected one column {name!r}; it has {names.count(name)}")


def _feature(file: Path, feature: Feature, table: pa.Table) -> NDArray[np.float64]:
    values = _numbers(file, feature.name, table)
    if feature.support is None:
        return values
    outside = (values < feature.support[0]) | (values > feature.support[1])
    if feature.missing is not None:
        outside &= values != feature.missing
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        low, high = feature.support
        raise InputError(
            f"event file {file}: column {feature.name!r}: expected values in [{low:g}, {high:g}]; "
            f"{int(outside.sum())} of {len(values)} do not, the first in row {row} ({values[row]:g}); select as the simulation does"
        )
    return values


def _weights(file: Path, name: str, table: pa.Table) -> NDArray[np.float64]:
    if name not in table.column_names:
        return np.ones(table.num_rows)
    weight = _numbers(file, name, table)
    if not weight.sum() > 0:
        raise InputError(f"event file {file}: column {name!r}: expected weights with a positive sum; got {weight.sum():g}")
    return weight


def _numbers(file: Path, name: str, table: pa.Table) -> NDArray[np.float64]:
    """A column as finite numbers."""
    column = table.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"event file {file}: column {name!r}: expected numbers; it holds {column.type}")
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise InputError(
            f"event file {file}: column {name!r}: expected finite numbers; "
            f"{len(wrong)} of {len(values)} are missing, NaN or infinite, the first in row {wrong[0]}"
        )
    return values.copy()
