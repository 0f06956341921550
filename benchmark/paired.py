"""Paired differences of two methods, from the per-event densities kept beside their records (``events.parquet``).

Both saw the same frozen test events, so that most of the fluctuation cancels in the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

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
    a, b = _read(Path(first)), _read(Path(second))
    for name in SHARED:
        if not np.array_equal(_column(a, name), _column(b, name)):
            raise InputError(f"{second}: expected the test events of {first}; {name} differs: compare runs of one toy, evaluation and seed")
    return [_difference(a, b, point) for point in np.unique(_column(a, "point"))]


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {error}; expected the events.parquet of a run") from error
    if "log_q" not in table.column_names:
        raise InputError(f"{path}: expected a column log_q; got {', '.join(table.column_names)}: this estimator has no log_prob")
    return table


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    """One column in float64; empty if there is none."""
    return table[name].to_numpy().astype(np.float64) if name in table.column_names else np.empty(0)


def _difference(first: pa.Table, second: pa.Table, point: float) -> PairedDifference:
    chosen = _column(first, "point") == point
    gain, weight = (
        torch.from_numpy(values[chosen]) for values in (_column(second, "log_q") - _column(first, "log_q"), _column(first, "weight"))
    )
    row = mean_row("density", "kl", gain, weight=weight)
    return PairedDifference(int(point), float(row.value or 0.0), float(row.stderr or 0.0), len(gain))
