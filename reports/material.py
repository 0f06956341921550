"""What the figures of one table are drawn from: its rows, each with its look and the curves of its seeds, read once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from touchneedle.reports.aggregate import AtValue, Cell
from touchneedle.reports.curves import UNREADABLE, Curves, Series, read_curves
from touchneedle.reports.panels import Ink
from touchneedle.reports.rows import Problem, Row, compact

MAX_ROWS = 10
# Of equal weight on white and on dark ground; each goes with a marker of its own, for readers who do not tell colours apart.
COLOURS = ("#0f7fc4", "#d55e00", "#0a9b76", "#b8609a", "#94741a", "#4a9ed6", "#8a5cc8", "#cc8400", "#c04444", "#6b8f2f")
MARKERS = ("o", "s", "^", "d")
CONTROL = "#8a8f98"
_CONTROL_DASHES = ("6 3", "3 2", "8 3 2 3", "2 2")
EXACT = Ink("currentColor", marker="", width=2.6)


@dataclass(frozen=True)
class Drawn:
    """A row, its name in this table (short enough for a legend), how it looks, and the curves of its seeds that could be read."""

    row: Row
    label: str
    ink: Ink
    seeds: tuple[Curves, ...]

    @property
    def is_oracle(self) -> bool:
        """The exact answer itself."""
        return self.row.estimator == "oracle"

    def first(self, curve: str, series: str) -> Series | None:
        """A series of the first seed that has any curves."""
        return self.seeds[0].get((curve, series)) if self.seeds else None

    def each(self, curve: str, series: str) -> list[Series]:
        """A series of every seed."""
        return [found for found in (curves.get((curve, series)) for curves in self.seeds) if found is not None]

    def series(self, curve: str) -> list[str]:
        """Names of the series of a curve, in their order in the first seed."""
        return [name for kind, name in (self.seeds[0] if self.seeds else {}) if kind == curve]

    def cells(self, metric: str, **at: AtValue) -> list[Cell]:
        """Numbers of a metric at the nominal point, where ``at`` holds; retrained networks have rows of their own."""
        wanted = {"point": 0, **at}
        return [
            cell
            for cell in self.row.cells
            if cell.metric == metric
            and cell.value is not None
            and math.isfinite(cell.value)
            and cell.at.get("network") != "retrained"
            and all(cell.at.get(key) in (None, value) for key, value in wanted.items())
        ]


@dataclass(frozen=True)
class Material:
    """Rows to draw.

    Attributes:
        rows: the oracle first, if there is one, then the best rows of the table.
        parameter: the parameter of interest; may be empty.
        notes: what was left out.
        problems: curves that could not be read.
    """

    rows: tuple[Drawn, ...]
    parameter: str
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @cached_property
    def answers(self) -> tuple[Drawn, ...]:
        """All rows but the oracle, which is drawn as the exact answer."""
        return tuple(drawn for drawn in self.rows if not drawn.is_oracle)


def gather(rows: Sequence[Row], parameter: str) -> Material:
    """The rows of a table in their order, the first `MAX_ROWS` beside the oracle."""
    problems: list[Problem] = []
    oracle = [row for row in rows if row.estimator == "oracle"][:1]
    others = [row for row in rows if row.estimator != "oracle"]
    notes = (f"the first {MAX_ROWS} of {len(others)} rows are drawn",) if len(others) > MAX_ROWS else ()
    chosen = oracle + others[:MAX_ROWS]
    drawn = [
        Drawn(row, shorten(name), ink, _curves_of(row, problems))
        for row, name, ink in zip(chosen, _names(chosen), _inks(chosen), strict=True)
    ]
    return Material(tuple(drawn), parameter, notes, tuple(problems))


def _names(rows: Sequence[Row]) -> list[str]:
    """Estimators with the options in which the rows differ, and the design where it is not the prior."""
    options = [{name: compact(value) for name, value in row.options.items()} for row in rows]
    shared = set.intersection(*(set(each.items()) for each in options)) if len(rows) > 1 else set()
    return [
        " ".join([row.estimator, *(f"{k}={v}" for k, v in each.items() if (k, v) not in shared), *_design(row)])
        for row, each in zip(rows, options, strict=True)
    ]


def _design(row: Row) -> list[str]:
    return [] if row.design == "prior" else [f"({row.design})"]


def _inks(rows: Sequence[Row]) -> list[Ink]:
    """Grey dashes for controls, in turn; a colour and a marker for every other row, baselines dotted."""
    controls = itertools.cycle(zip(_CONTROL_DASHES, MARKERS, strict=True))
    entries = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    inks = []
    for row in rows:
        if row.role == "control":
            dashes, marker = next(controls)
            inks.append(Ink(CONTROL, dashes, marker, 1.4))
        else:
            colour, marker = next(entries)
            inks.append(Ink(colour, "2 2" if row.role == "baseline" else "", marker))
    return inks


def bare(ink: Ink) -> Ink:
    """The same without a marker, for lines."""
    return replace(ink, marker="")


def shorten(text: str, limit: int = 36) -> str:
    """Text that fits a legend."""
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _curves_of(row: Row, problems: list[Problem]) -> tuple[Curves, ...]:
    found = []
    for path in (run.curves for run in row.runs if run.curves.is_file()):
        try:
            found.append(read_curves(path))
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(Problem(f"{path.parent.name}/{path.name}", f"curves are unreadable ({reason}); run again with --force"))
    return tuple(found)
