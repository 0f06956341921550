"""Who is better, and whether the metric may be believed at all.

*Badness* turns every metric into "smaller is better": |value| for a bias or a KL (a negative KL betrays a
density that is not normalised), the distance to its target for a width or a coverage, -log n*. Entries
within two combined standard errors of the best are not distinguishable from it. A metric that puts the
exact answer (``oracle``) behind a control known to be worse is withheld.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.numbers import format_cell
from touchneedle.reports.pairwise import letter
from touchneedle.reports.rows import Row

SIGMAS = 2.0
# Beyond this, squares are not finite; a larger number counts as infinite wherever errors are combined.
HUGE = 1e150
PRIMARY = ("fit/n_star", "density/kl", "density/log_ratio_rmse")
WORSE_CONTROLS = ("oracle_shifted", "oracle_narrow", "best_gaussian")
_TARGETS = {
    "bias": 0.0,
    "bias_vs_oracle": 0.0,
    "coverage_68": math.erf(1 / math.sqrt(2)),
    "coverage_95": math.erf(2 / math.sqrt(2)),
    "kl": 0.0,
    "kl_positive": 0.0,
    "log_ratio_rmse": 0.0,
    "log_ratio_median": 0.0,
    "mean_ratio": 1.0,
    "mean_score": 0.0,
    "pull_mean": 0.0,
    "pull_width": 1.0,
    "width_vs_oracle": 1.0,
}
# How many events a test rests on, and where fits fail, says nothing about how good the answer is.
UNCHECKED_NAMES = frozenset({"effective_share", "failed_fits", "outside_share", "surface_error"})


@dataclass(frozen=True)
class Withheld:
    """A metric that misorders the controls, with the two numbers that show it."""

    metric: str
    place: str
    why: str


@dataclass(frozen=True)
class Standing:
    """Place of a row: rank from 1 and group letter for entries with a number, None otherwise."""

    row: Row
    rank: int | None = None
    group: str = ""


def place(cell: Cell) -> str:
    """Canonical text of where a cell holds."""
    return ", ".join(f"{key}={value}" for key, value in sorted(cell.at.items()))


def badness(cell: Cell) -> tuple[float, float]:
    """(badness, its standard error); badness is infinite without a number and not defined for plain counts."""
    if cell.value is None:
        return math.inf, 0.0
    error = cell.stderr or 0.0
    if cell.name == "n_star":
        error = error / cell.value if cell.value > 0 else 0.0
    return badness_of(cell, cell.value), error


def badness_of(cell: Cell, value: float) -> float:
    """Badness of one value of a cell's metric, such as that of a single seed."""
    if cell.name == "n_star":
        return _minus_log(value)
    target = target_of(cell)
    if target is not None:
        return abs(value - target)
    return -value if cell.direction == "higher" else value


def size_of(cell: Cell) -> tuple[float, float]:
    """(badness, its standard error) on a scale with a natural zero: 1 / n* for n*."""
    if cell.name != "n_star" or cell.value is None:
        return badness(cell)
    if cell.value <= 0:
        return math.inf, 0.0
    return 1 / cell.value, (cell.stderr or 0.0) / cell.value / cell.value


def target_of(cell: Cell) -> float | None:
    """What a metric should be, by its record or by its name; None where lower or higher is better."""
    return cell.target if cell.target is not None else _TARGETS.get(cell.name)


def distinguishable(better: Cell, worse: Cell, sigmas: float = SIGMAS) -> bool:
    """Whether ``worse`` is more than ``sigmas`` combined standard errors behind ``better``."""
    if better.all_censored and worse.all_censored:
        return False
    (a, error_a), (b, error_b) = badness(better), badness(worse)
    return b - a > sigmas * math.hypot(error_a, error_b)


def misordered(rows: Sequence[Row]) -> dict[tuple[str, str], Withheld]:
    """Metrics of one table that put ``oracle`` behind a worse control, by (metric, place)."""
    oracles = [row for row in rows if row.estimator == "oracle"]
    controls = [row for row in rows if row.estimator in WORSE_CONTROLS]
    found: dict[tuple[str, str], Withheld] = {}
    for control in controls:
        others = {(cell.metric, place(cell)): cell for cell in control.cells}
        for cell in _checked_cells(oracles):
            where = (cell.metric, place(cell))
            other = others.get(where)
            if other is None or other.value is None or where in found:
                continue
            if distinguishable(other, cell):
                why = f"oracle {format_cell(cell)} behind {control.estimator} {format_cell(other)}"
                found[where] = Withheld(*where, why)
    return found


def standings(rows: Sequence[Row], cells: Sequence[Cell | None]) -> list[Standing]:
    """Rows in order of their primary cells: limits first, missing numbers last, controls unranked in their place.

    Unranked are entries of a single run, too, where others have several: their errors know nothing of other trainings.
    """
    pairs = sorted(zip(rows, cells, strict=True), key=lambda pair: _order(*pair))
    least = min(2, max((len(row.seeds) for row in rows if row.role == "entry"), default=0))
    entries = ((row, cell) for row, cell in pairs if row.role == "entry" and len(row.seeds) >= least)
    ranked = [(row, cell) for row, cell in entries if cell is not None and cell.value is not None]
    letters = _groups([cell for _, cell in ranked])
    place_of = {row.key: (rank, letters[rank - 1]) for rank, (row, _) in enumerate(ranked, start=1)}
    return [Standing(row, *place_of.get(row.key, (None, ""))) for row, _ in pairs]


def _checked_cells(oracles: Iterable[Row]) -> Iterable[Cell]:
    for row in oracles:
        for cell in row.cells:
            aimless = cell.direction == "target" and cell.target is None and cell.name not in _TARGETS
            if cell.family not in ("cost", "gates") and cell.name not in UNCHECKED_NAMES and cell.value is not None and not aimless:
                yield cell


def _order(row: Row, cell: Cell | None) -> tuple[int, float, str, str]:
    if cell is None or cell.value is None:
        return 2, 0.0, row.label, row.key
    limit = cell.all_censored and cell.censored == "above" and cell.name == "n_star"
    return 0 if limit else 1, badness(cell)[0], row.label, row.key


def _groups(cells: Sequence[Cell]) -> list[str]:
    """A letter for each cell (best first): each group holds what cannot be told from its best entry."""
    letters = [""] * len(cells)
    left = list(range(len(cells)))
    number = 0
    while left:
        best = cells[left[0]]
        members = [k for k in left if k == left[0] or not distinguishable(best, cells[k])]
        for k in members:
            letters[k] = letter(number)
        left = [k for k in left if letters[k] == ""]
        number += 1
    return letters


def _minus_log(value: float) -> float:
    if value <= 0:
        return math.inf
    return -math.log(value) if math.isfinite(value) else -math.inf
