"""Real events in a parquet file: an `EventSource` that reads a batch at a time and checks what it reads.

Features are found by name, so that the order of the columns does not matter. What is wrong is said in one line that
names the file and the column.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Feature, ToySpec, collect

_WEIGHT_ROWS = 2**18
WEIGHT = "weight"


@dataclass(frozen=True)
class EventFile:
    """The events of a parquet file, one a row; made by `open_events`.

    Attributes:
        features: the columns of x, in the order of an estimator's spec.
        weight: column of event weights; None for unweighted events.
    """

    path: Path
    features: tuple[Feature, ...]
    weight: str | None = None

    def __len__(self) -> int:
        return self._rows

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Events]:
        """Batches of at most ``size`` events in the order of the file; their theta has no columns, data being for no theta.

        Raises `InputError` for values that are missing, NaN, infinite or outside the support, and for a generator: a file is not shuffled.
        """
        if generator is not None:
            raise InputError(f"event file {self.path}: expected no generator, a file is read in its own order; collect the events first")
        start = 0
        for table in self._tables(size):
            x = np.stack([self._feature(table, feature, start) for feature in self.features], axis=1)
            weight = np.ones(len(x)) if self.weight is None else self._numbers(table, self.weight, start).copy()
            start += len(x)
            yield Events(torch.from_numpy(x), torch.zeros(len(x), 0, dtype=torch.float64), torch.from_numpy(weight))

    @cached_property
    def _rows(self) -> int:
        with pq.ParquetFile(self.path) as file:
            return file.metadata.num_rows

    def _tables(self, size: int) -> Iterator[pa.RecordBatch]:
        names = [feature.name for feature in self.features] + ([] if self.weight is None else [self.weight])
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                yield from file.iter_batches(size, columns=names)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from error

    def _feature(self, table: pa.RecordBatch, feature: Feature, start: int) -> NDArray[np.float32]:
        values = self._numbers(table, feature.name, start)
        if feature.support is not None:
            inside = (values >= feature.support[0]) & (values <= feature.support[1])
            if feature.missing is not None:
                inside |= values == feature.missing
            self._refuse(~inside, feature.name, f"values in [{feature.support[0]:g}, {feature.support[1]:g}]", "outside", start)
        return values.astype(np.float32)

    def _numbers(self, table: pa.RecordBatch, name: str, start: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = table.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        self._refuse(~(np.abs(values) <= np.finfo(np.float32).max), name, "finite numbers", "missing, NaN or infinite", start)
        return values

    def _refuse(self, wrong: NDArray[np.bool_], name: str, expected: str, got: str, start: int) -> None:
        found = np.flatnonzero(wrong)
        if len(found):
            raise InputError(
                f"event file {self.path}: column {name!r}: expected {expected}; {len(found)} of rows {start} to {start + len(wrong) - 1} "
                f"are {got}, the first in row {start + found[0]}"
            )


def open_events(path: str | Path, features: Sequence[Feature], weight: str | None = None) -> EventFile:
    """The events of a parquet file with the columns that an estimator's spec asks for.

    Raises `InputError` for no such file, another kind of file, no events, a column that is not there, twice there or not
    numeric, and weights whose sum is not positive. Values are checked as they are read.
    """
    file = EventFile(Path(path), tuple(features), weight)
    schema = _schema(file.path)
    if len(file) == 0:
        raise InputError(f"event file {path}: expected events; it has 0 rows")
    _check_columns(file.path, schema, [feature.name for feature in features] + ([] if weight is None else [weight]))
    if weight is not None:
        _check_weights(EventFile(file.path, (), weight), weight)
    return file


def _schema(path: Path) -> pa.Schema:
    if not path.is_file():
        raise InputError(f"event file {path}: expected a parquet file; there is none")
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def read_events(path: str | Path, toy: ToySpec, weight: str = "") -> Events:
    """All events of a parquet file with the features of ``toy``, in memory; ``theta`` is nominal and means nothing.

    Weights are those of the column ``weight``; "" takes one that is called weight, if there is one, else every event counts once.
    Raises `InputError` as `open_events` and reading do.
    """
    column = weight or (WEIGHT if WEIGHT in _schema(Path(path)).names else None)
    events = collect(open_events(path, toy.features, column))
    return replace(events, theta=toy.parameters.nominal.expand(len(events), -1))


def _check_columns(path: Path, schema: pa.Schema, names: list[str]) -> None:
    for name in names:
        if name not in schema.names:
            close = difflib.get_close_matches(name, schema.names, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(f"event file {path}: no column {name!r}{hint}; its columns are {', '.join(schema.names)}")
        if schema.names.count(name) > 1:
            raise InputError(f"event file {path}: expected one column {name!r}; it has {schema.names.count(name)}")
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InputError(f"event file {path}: column {name!r}: expected numbers; it holds {kind}")


def _check_weights(file: EventFile, name: str) -> None:
    total = 0.0
    for table in file._tables(_WEIGHT_ROWS):
        total += float(table.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).sum())
    if not total > 0:
        raise InputError(f"event file {file.path}: column {name!r}: expected weights with a positive sum; got {total:g}")


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"event file {path}: expected a complete parquet file; it is truncated or of another kind ({reason})")
