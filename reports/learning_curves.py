"""Learning curves: how a method's primary number on a toy moves with the number of training events.

Points are the table's numbers at each budget, seeds averaged. The slope is that of log badness on log n_train by weighted least squares,

    slope = sum w (x - <x>) y / sum w (x - <x>)^2,   w = 1 / error(y)^2,   error = 1 / sqrt(sum w (x - <x>)^2),

negative where more events help: at the pace of statistics -1 for n* and KL, -1/2 for errors of the log-ratio. A chi2 / dof above 1
widens its error (Birge), because budgets need not lie on a power law. For n* the badness is 1 / n*. Numbers of zero badness, limits,
and single points have no slope.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.ranking import HUGE, PRIMARY, size_of
from touchneedle.reports.rows import Row, canonical, section
from touchneedle.reports.sections import Column, Section, Table


@dataclass(frozen=True)
class Point:
    """A budget with its number."""

    n_train: int
    cell: Cell


@dataclass(frozen=True)
class LearningCurve:
    """One method on one toy over budgets, in one metric.

    Attributes:
        index: of the toy's section.
        slope, stderr: of log badness against log n_train; None where it cannot be had.
    """

    index: int
    toy: str
    label: str
    design: str
    metric: str
    title: str
    points: tuple[Point, ...]
    slope: float | None
    stderr: float | None


def learning_curves(sections: Sequence[Section]) -> list[LearningCurve]:
    """Curves of entries that have a primary metric at two budgets or more, by toy, then label."""
    found = [curve for index, section in enumerate(sections) for curve in _curves(index, section)]
    return sorted(found, key=lambda curve: (curve.index, curve.label, curve.design))


def slope_of(points: Sequence[tuple[float, float, float]]) -> tuple[float, float] | None:
    """Slope and error of (n_train, badness, its error) in logarithms; None for less than two usable points."""
    usable = [(math.log(n), math.log(bad), error / bad) for n, bad, error in points if 1 / HUGE < bad < HUGE and 1 / HUGE < error < HUGE]
    if len({x for x, _, _ in usable}) < 2:
        return None
    weights = [1 / error**2 for _, _, error in usable]
    total = math.fsum(weights)
    middle = math.fsum(w * x for w, (x, _, _) in zip(weights, usable, strict=True)) / total
    spread = math.fsum(w * (x - middle) ** 2 for w, (x, _, _) in zip(weights, usable, strict=True))
    slope = math.fsum(w * (x - middle) * y for w, (x, y, _) in zip(weights, usable, strict=True)) / spread
    level = math.fsum(w * y for w, (_, y, _) in zip(weights, usable, strict=True)) / total
    chi2 = math.fsum(w * (y - level - slope * (x - middle)) ** 2 for w, (x, y, _) in zip(weights, usable, strict=True))
    dof = len(usable) - 2
    return slope, math.sqrt(max(1.0, chi2 / dof) / spread) if dof else math.sqrt(1 / spread)


def _curves(index: int, section: Section) -> Iterator[LearningCurve]:
    groups: dict[str, list[tuple[Table, Row]]] = {}
    for table in section.tables:
        for row in table.rows:
            if row.role == "entry":
                groups.setdefault(_apart_from_budget(row), []).append((table, row))
    for rows in groups.values():
        for metric in PRIMARY:
            points, title = _points(rows, metric)
            if len(points) > 1:
                yield _curve(index, section, rows[0][1], metric, title, points)
                break


def _curve(index: int, section: Section, row: Row, metric: str, title: str, points: tuple[Point, ...]) -> LearningCurve:
    fitted = slope_of([(point.n_train, *size_of(point.cell)) for point in points if not point.cell.censored])
    slope, stderr = fitted or (None, None)
    return LearningCurve(index, section.toy[0], row.label, row.design, metric, title, points, slope, stderr)


def _points(rows: Sequence[tuple[Table, Row]], metric: str) -> tuple[tuple[Point, ...], str]:
    found: dict[int, Point] = {}
    title = ""
    for table, row in sorted(rows, key=lambda pair: (len(pair[1].seeds), _epochs(pair[1]))):
        column = next(column for column in table.columns if column.metric == metric)
        cell = _shown(table, row, column)
        if cell is not None:
            found[row.n_train], title = Point(row.n_train, cell), column.title
    return tuple(found[n] for n in sorted(found)), title


def _shown(table: Table, row: Row, column: Column) -> Cell | None:
    cell = table.cell(row, column)
    return cell if cell is not None and cell.value is not None and not table.why_withheld(cell) else None


def _apart_from_budget(row: Row) -> str:
    """What rows of a curve share: fewer events may be seen more often, so that steps of training, not passes, are alike."""
    parts = json.loads(row.key)
    parts["trainer"].pop("max_epochs", None)
    return canonical({name: value for name, value in parts.items() if name != "budget"})


def _epochs(row: Row) -> int:
    return int(section(row.runs[0].record.config, "trainer").get("max_epochs", 0))
