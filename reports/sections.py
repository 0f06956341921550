"""Rows to tables: one section per toy version, in it one table per training budget and evaluation.

Ranks compare at equal budget only. The headline columns are chosen here; all other numbers go to the
details and to the CSV file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.ranking import PRIMARY, Standing, Withheld, badness, misordered, place, standings
from touchneedle.reports.rows import Results, Row, Run, toy_key


@dataclass(frozen=True)
class Column:
    """A headline column.

    Attributes:
        select: ``nominal`` takes theta point 0 (or a number that holds for no point in particular);
            ``worst`` takes the largest badness where there are several.
        n_events: size of the pseudo-experiments; None where it does not apply.
    """

    key: str
    title: str
    metric: str
    help: str
    n_events: int | None = None
    select: Literal["nominal", "worst"] = "nominal"


@dataclass(frozen=True)
class Table:
    """One ranking at equal budget.

    Attributes:
        primary: metric that orders the rows; empty if no row has any.
        cells: (row key, column key) -> number.
        withheld: (metric, place) -> why the metric is not shown there.
    """

    budget: str
    n_train: int
    evaluation: str
    primary: str
    columns: tuple[Column, ...]
    standings: tuple[Standing, ...]
    cells: dict[tuple[str, str], Cell | None]
    withheld: dict[tuple[str, str], Withheld]

    @property
    def rows(self) -> list[Row]:
        """Rows in table order."""
        return [standing.row for standing in self.standings]

    def cell(self, row: Row, column: Column) -> Cell | None:
        """The number of a row in a column."""
        return self.cells[row.key, column.key]

    def why_withheld(self, cell: Cell) -> str:
        """Why a cell is withheld; empty if it is shown."""
        found = self.withheld.get((cell.metric, place(cell)))
        return found.why if found else ""


@dataclass
class Section:
    """One toy in one version with one set of options."""

    toy: tuple[str, str, str]
    parameter: str = ""
    other_versions: int = 0
    tables: list[Table] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    skipped: list[Run] = field(default_factory=list)


def build_sections(results: Results) -> list[Section]:
    """Sections in order of toy name, version and options."""
    keys = {row.toy for row in results.rows} | {toy_key(run.record) for run in [*results.failed, *results.skipped]}
    names = [name for name, _, _ in keys]
    sections = []
    for key in sorted(keys):
        rows = [row for row in results.rows if row.toy == key]
        section = Section(key, parameter_of_interest(rows), names.count(key[0]) - 1)
        section.tables = _tables(rows, section.parameter)
        section.failed = [run for run in results.failed if toy_key(run.record) == key]
        section.skipped = [run for run in results.skipped if toy_key(run.record) == key]
        sections.append(section)
    return sections


def parameter_of_interest(rows: Sequence[Row]) -> str:
    """The parameter whose fit is ranked: marked ``kind: interest`` in the record, else the first one fitted."""
    fitted = [cell.at for row in rows for cell in row.cells if cell.family == "fit" and cell.at.get("parameter")]
    marked = [at for at in fitted if at.get("kind") == "interest"]
    return str((marked or fitted)[0]["parameter"]) if fitted else ""


def headline_columns(rows: Sequence[Row], parameter: str) -> tuple[Column, ...]:
    """The columns of a table; numbers of events are those found in its rows (smallest and largest)."""
    sizes = _sizes(rows, parameter)
    largest = sizes[-1] if sizes else None
    return (
        Column("n_star", "n*", "fit/n_star", "events at which the bias reaches 0.2 sigma; higher is better"),
        *_bias_columns(rows, sizes),
        Column("pull_width", "pull width", "fit/pull_width", "1 is right; below 1 the intervals are too wide", largest),
        Column("width", "width / oracle", "fit/width_vs_oracle", "interval width over the oracle's; 1 is right", largest),
        Column("coverage_68", "cover 68 %", "fit/coverage_68", "share of 68.3 % intervals that hold the true value", largest),
        Column("coverage_95", "cover 95 %", "fit/coverage_95", "share of 95.4 % intervals that hold the true value", largest),
        Column("kl", "KL / nats", "density/kl", "KL(truth, learned); lower is better"),
        Column("rmse", "log r RMSE", "density/log_ratio_rmse", "root mean square error of the log-ratio; tails dominate", select="worst"),
        Column("median", "log r median", "density/log_ratio_median", "median absolute error of the log-ratio", select="worst"),
        Column("mean_ratio", "mean ratio", "closure/mean_ratio", "E[r] over reference events; 1 is right", select="worst"),
        Column("train", "train / s", "cost/train_seconds", "wall-clock training time"),
        Column("speed", "log r / µs", "cost/log_ratio_microseconds", "time of one log_ratio per event"),
    )


def select_cell(row: Row, column: Column, parameter: str) -> Cell | None:
    """The number of ``row`` that ``column`` shows; None if the record has none."""
    found = [cell for cell in row.cells if cell.metric == column.metric and _fits(cell, column, parameter)]
    everywhere = [cell for cell in found if cell.at.get("point") is None]
    if column.select == "worst":
        present = [cell for cell in everywhere or found if cell.value is not None]
        return max(present, key=lambda cell: badness(cell)[0]) if present else next(iter(found), None)
    nominal = [cell for cell in found if cell.at.get("point") == 0]
    return next(iter(nominal or everywhere), None)


def _tables(rows: Sequence[Row], parameter: str) -> list[Table]:
    keys = sorted({(row.n_train, row.budget, row.evaluation, row.evaluation_key) for row in rows})
    return [_table([row for row in rows if _table_key(row) == key], parameter) for key in keys]


def _table_key(row: Row) -> tuple[int, str, str, str]:
    return row.n_train, row.budget, row.evaluation, row.evaluation_key


def _table(rows: list[Row], parameter: str) -> Table:
    columns = headline_columns(rows, parameter)
    cells = {(row.key, column.key): select_cell(row, column, parameter) for row in rows for column in columns}
    withheld = misordered(rows)
    primary = _primary(columns, lambda column: [cells[row.key, column.key] for row in rows], withheld)
    first = [cells[row.key, primary.key] if primary else None for row in rows]
    return Table(
        budget=rows[0].budget,
        n_train=rows[0].n_train,
        evaluation=rows[0].evaluation,
        primary=primary.metric if primary else "",
        columns=columns,
        standings=tuple(standings(rows, first)),
        cells=cells,
        withheld=withheld,
    )


def _primary(
    columns: Iterable[Column], cells: Callable[[Column], list[Cell | None]], withheld: dict[tuple[str, str], Withheld]
) -> Column | None:
    """The first of n*, KL, log-ratio RMSE that some row has and that is not withheld."""
    by_metric = {column.metric: column for column in columns}
    for metric in PRIMARY:
        present = [cell for cell in cells(by_metric[metric]) if cell is not None and cell.value is not None]
        if present and not any((cell.metric, place(cell)) in withheld for cell in present):
            return by_metric[metric]
    return None


def _bias_columns(rows: Sequence[Row], sizes: Sequence[int]) -> list[Column]:
    """The paired bias, or the plain one where the toy has no exact answer to pair with."""
    names = {cell.name for row in rows for cell in row.cells if cell.family == "fit" and cell.value is not None}
    sigma = "\N{GREEK SMALL LETTER SIGMA}"
    if "bias_vs_oracle" in names or "bias" not in names:
        metric, title, meaning = "fit/bias_vs_oracle", f"bias/{sigma}", "bias_vs_oracle: paired with the oracle's fit, in oracle sigma"
    else:
        metric, title, meaning = "fit/bias", "plain bias", "bias against the true value; there is no exact answer to pair with"
    return [Column(f"bias_{n}", f"{title}, n={n:,}", metric, meaning, n) for n in sizes]


def _sizes(rows: Sequence[Row], parameter: str) -> list[int]:
    fits = (cell.at for row in rows for cell in row.cells if cell.metric in ("fit/bias_vs_oracle", "fit/bias"))
    sizes = {at.get("n_events") for at in fits if at.get("parameter", parameter) == parameter}
    found = sorted(int(size) for size in sizes if isinstance(size, int | float))
    return found if len(found) < 3 else [found[0], found[-1]]


def _fits(cell: Cell, column: Column, parameter: str) -> bool:
    if cell.at.get("parameter") not in (None, parameter) or cell.at.get("network") == "retrained":
        return False
    return column.n_events is None or cell.at.get("n_events") in (None, column.n_events)
