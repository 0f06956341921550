"""Curves of a run, as the evaluation wrote them beside its record (``curves.parquet``).

Long form: curve, series, x, y, low, high. A series with several parts separates them by commas: ``estimator, mass [GeV], up``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import pyarrow
import pyarrow.parquet

MAX_POINTS = 200
UNREADABLE = (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException)


@dataclass
class Series:
    """Points of one series of one curve; ``low`` and ``high`` are NaN where there is no band."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


Curves = dict[tuple[str, str], Series]


def read_curves(path: Path) -> Curves:
    """Curves of a run by (curve, series), thinned to `MAX_POINTS`; raises one of `UNREADABLE`."""
    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in ("curve", "series", "x", "y")}
    for name in ("low", "high"):
        columns[name] = table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows
    curves: Curves = {}
    for curve, series, *numbers in zip(*columns.values(), strict=True):
        points = curves.setdefault((str(curve), str(series)), Series())
        for values, value in zip((points.x, points.y, points.low, points.high), numbers, strict=True):
            values.append(math.nan if value is None else float(value))
    return {key: _thinned(series) for key, series in curves.items()}


def parts(series: str) -> tuple[str, str, str]:
    """The first, middle and last part of a series' name: who, along which axis, where."""
    first, _, rest = series.partition(", ")
    middle, _, last = rest.rpartition(", ")
    return first, middle, last


def averaged(seeds: Sequence[Series]) -> Series:
    """Mean over seeds of curves with the same x; the band is one standard deviation between seeds, or that of the only seed."""
    same = [series for series in seeds if series.x == seeds[0].x]
    if len(same) < 2:
        return seeds[0]
    columns = list(zip(*(series.y for series in same), strict=True))
    middle, spread = [fmean(column) for column in columns], [stdev(column) for column in columns]
    low = [y - s for y, s in zip(middle, spread, strict=True)]
    return Series(seeds[0].x, middle, low, [y + s for y, s in zip(middle, spread, strict=True)])


def pooled(seeds: Sequence[Series]) -> Series:
    """Mean over seeds of histograms with the same bins; their errors add up in quadrature."""
    same = [series for series in seeds if series.x == seeds[0].x]
    result = Series(seeds[0].x)
    for k in range(len(result.x)):
        middle = fmean(series.y[k] for series in same)
        result.y.append(middle)
        result.low.append(middle - math.hypot(*(series.y[k] - series.low[k] for series in same)) / len(same))
        result.high.append(middle + math.hypot(*(series.high[k] - series.y[k] for series in same)) / len(same))
    return result


def _thinned(series: Series) -> Series:
    step = max(1, math.ceil(len(series.x) / MAX_POINTS))
    return Series(series.x[::step], series.y[::step], series.low[::step], series.high[::step])
