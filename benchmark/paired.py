"""Paired differences of two methods, from the per-event densities kept beside their records (``events.parquet``).

Both saw the same frozen test events, so that most of the fluctuation cancels in the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from touchneedle.benchmark.metrics.statistics import mean_row
from touchneedle.conf.errors import InputError

SHARED = ("point", "event", "weight", "log_p")


@dataclass(frozen=True)
class PairedDifference:
    """KL(p||first) - KL(p||second) in nats at one theta point, from ``n`` events: negative if the first is better."""

    point: int
    value: float
    stderr: float
    n: int


def paired_kl_difference(first: str | Path, second: str | Path) -> list[PairedDifference]:
    """E_p[log q_second - log q_first] at every theta point, with the standard error of the paired mean.

    The exact density drops out of the difference: it need not be known. Infinite where one method gives an
    event no probability.

    Args:
        first, second: ``events.parquet`` of two runs with the same toy, evaluation and seed.

    Raises:
        InputError: if a file cannot be read, holds no ``log_q`` (an estimator without log_prob), or the events differ.
    """
    tables = [_read(Path(first)), _read(Path(second))]
    for name in SHARED:
        a, b = ([] if name not in table.column_names else table[name].to_numpy() for table in tables)
        if not np.array_equal(a, b):
            raise InputError(f"{second}: expected the test events of {first}; {name} differs: compare runs of one toy, evaluation and seed")
    return [_difference(*(table.filter(pc.field("point") == point) for table in tables), point) for point in _points(tables[0])]


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {error}; expected the events.parquet of a run") from error
    if "log_q" not in table.column_names:
        raise InputError(f"{path}: expected a column log_q; got {', '.join(table.column_names)}: this estimator has no log_prob")
    return table


def _points(table: pa.Table) -> list[int]:
    return sorted(table["point"].unique().to_pylist())


def _difference(first: pa.Table, second: pa.Table, point: int) -> PairedDifference:
    log_q = [torch.tensor(table["log_q"].to_numpy(), dtype=torch.float64) for table in (first, second)]
    weight = torch.tensor(first["weight"].to_numpy())
    row = mean_row("density", "kl", log_q[1] - log_q[0], weight=weight)
    return PairedDifference(point, float(row.value or 0.0), float(row.stderr or 0.0), len(weight))
