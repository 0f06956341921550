"""What every metric family hands over, and how it describes its metrics.

A family is one function ``(EvaluationContext) -> Scores`` and one tuple of `MetricInfo`; it joins by one line
in `touchneedle.benchmark.evaluate`. It makes a row for every metric that it promises: where a number cannot
be had, an n/a row with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from touchneedle.benchmark.records import Direction, Metric

Row = dict[str, Any]
Table = list[Row] | Mapping[str, Sequence[Any] | NDArray[Any]]
"""Rows, or columns of equal length."""

EXACT = "exact density"
REGULAR = "regular toy"
BOTH = "exact density, regular toy"
SHARED_SUPPORT = "one support at every theta"


@dataclass(frozen=True)
class MetricInfo:
    """One metric as ``touchneedle list metrics`` shows it.

    Attributes:
        needs: capabilities of the estimator and properties of the toy, in words; empty for none.
    """

    family: str
    name: str
    description: str
    direction: Direction
    needs: str = ""


@dataclass
class Scores:
    """Metric rows, curve rows for figures, tables kept beside the record (``<name>.parquet``), and costs."""

    metrics: list[Metric] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    cost: dict[str, float | int | str | None] = field(default_factory=dict)

    def add(self, other: Scores) -> None:
        """Append what another family found."""
        self.metrics += other.metrics
        self.curves += other.curves
        self.tables |= other.tables
        self.cost |= other.cost
