"""``touchneedle compare``: methods side by side, toy by toy and number by number, the first against each of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from touchneedle.conf.errors import InputError
from touchneedle.reports.aggregate import Cell
from touchneedle.reports.differences import better, difference
from touchneedle.reports.leaders import listed
from touchneedle.reports.numbers import format_cell
from touchneedle.reports.ranking import place
from touchneedle.reports.rows import Row, read_results
from touchneedle.reports.sections import Section, Table, build_sections

COLUMNS = ("toy", "budget", "design", "number", "first", "second", "second - first", "sigma", "better", "error from")
Line = tuple[str, ...]


def compare(folder: Path, names: Sequence[str], *, every: bool = False) -> list[Line]:
    """Lines of a comparison, under `COLUMNS`: the headline numbers, or ``every`` number that both have.

    A name is an estimator (all of its options), or an estimator with its options as the leaderboard writes them. Rows are compared at
    equal budget, evaluation and design; where a method has no row of the other's design, both designs are shown.

    Raises:
        InputError: for fewer than two names, an unknown one, or methods that never met.
    """
    if len(names) < 2:
        raise InputError(f"compare: expected two or more estimators; got {len(names)} (touchneedle compare ratio_bce zuko_nsf)")
    sections = build_sections(read_results(folder))
    labels = sorted({row.label for row in _all_rows(sections)})
    for name in names:
        if name not in labels and not any(row.estimator == name for row in _all_rows(sections)):
            raise InputError(f"compare {name}: no run of it in {folder}; there are {listed(labels, 20) or 'no good runs'}")
    lines = [line for section in sections for table in section.tables for line in _table_lines(section, table, names, every)]
    if not lines:
        raise InputError(f"compare: {listed(names)} share no toy at equal budget and evaluation in {folder}; run them on one")
    return lines


def _table_lines(section: Section, table: Table, names: Sequence[str], every: bool) -> Iterator[Line]:
    for first in _chosen(table, names[0]):
        for name in names[1:]:
            others = [row for row in _chosen(table, name) if row.key != first.key and row.track == first.track]
            for second in [row for row in others if row.design == first.design] or others:
                pairs = _every(table, first, second) if every else _headline(table, first, second)
                for title, one, other in pairs:
                    yield _line(section, table, (first, second), title, (one, other))


def _line(section: Section, table: Table, rows: tuple[Row, Row], title: str, cells: tuple[Cell, Cell]) -> Line:
    first, second = rows
    found = difference(*cells)
    design = first.design if first.design == second.design else f"{first.design}, {second.design}"
    numbers = [f"{row.label} {format_cell(cell)}" for row, cell in zip(rows, cells, strict=True)]
    gap = (
        ("n/a", "", "", "")
        if found is None
        else (found.text, f"{found.sigma:+.1f}", better((first.label, second.label), *cells), found.how)
    )
    return (section.toy[0], table.budget, design, title, *numbers, *gap)


def _headline(table: Table, first: Row, second: Row) -> Iterator[tuple[str, Cell, Cell]]:
    for column in table.columns:
        one, other = table.cell(first, column), table.cell(second, column)
        if one is not None and other is not None and _shown(table, one, other):
            yield column.title, one, other


def _every(table: Table, first: Row, second: Row) -> Iterator[tuple[str, Cell, Cell]]:
    others = {(cell.metric, place(cell)): cell for cell in second.cells}
    for one in first.cells:
        other = others.get((one.metric, place(one)))
        if other is not None and one.family != "gates" and _shown(table, one, other):
            yield f"{one.metric} {place(one)}".strip(), one, other


def _shown(table: Table, one: Cell, other: Cell) -> bool:
    return one.value is not None and other.value is not None and not table.why_withheld(one)


def _chosen(table: Table, name: str) -> list[Row]:
    return [row for row in table.rows if row.label == name] or [row for row in table.rows if row.estimator == name]


def _all_rows(sections: Sequence[Section]) -> Iterator[Row]:
    return (row for section in sections for table in section.tables for row in table.rows)
