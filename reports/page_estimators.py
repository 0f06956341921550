"""Estimators on the page: what each is, where it wins and loses, what it costs, what it exports to, and all of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from touchneedle.benchmark.export_rows import Export
from touchneedle.conf.sources import Sources
from touchneedle.reports.anchors import Anchors
from touchneedle.reports.exports import ExportCell, export_formats, export_lines
from touchneedle.reports.figures import shorten
from touchneedle.reports.numbers import format_number
from touchneedle.reports.page_runs import RunViews
from touchneedle.reports.page_toys import LONGEST_OPTIONS, headline, table_anchor, toy_label
from touchneedle.reports.ranking import Standing
from touchneedle.reports.rows import Row, Run, role_of
from touchneedle.reports.sections import Section, Table
from touchneedle.reports.text_tables import gate_states, gate_text

COSTS = ("train", "speed")


@dataclass(frozen=True)
class Appearance:
    """One row of one ranking."""

    section: Section
    table: Table
    number: int
    standing: Standing

    @property
    def row(self) -> Row:
        """The row."""
        return self.standing.row

    @property
    def ranked(self) -> int:
        """Entries of the ranking."""
        return sum(standing.rank is not None for standing in self.table.standings)

    @property
    def wins(self) -> bool:
        """In the best group, and not alone in the ranking."""
        return self.standing.group == "a" and self.ranked > 1

    @property
    def loses(self) -> bool:
        """In the last group, where there are several."""
        last = max((standing.rank or 0, standing.group) for standing in self.table.standings)[1]
        return self.standing.group not in ("", "a") and self.standing.group == last


@dataclass
class Everything:
    """All that the records hold of one estimator, whatever its options."""

    name: str
    appearances: list[Appearance] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    skipped: list[Run] = field(default_factory=list)

    @property
    def distribution(self) -> str:
        """Where it came from; of the first row or run."""
        rows, runs = self.appearances, [*self.failed, *self.skipped]
        return rows[0].row.distribution if rows else runs[0].record.estimator.distribution

    @property
    def runs(self) -> list[Run]:
        """Good runs, then failed ones, each in the order of the toys."""
        good = [run for appearance in self.appearances for run in appearance.row.runs]
        return [*good, *self.failed]


class EstimatorViews:
    """Makes the views of estimators."""

    def __init__(self, anchors: Anchors, runs: RunViews, sources: Sources, exports: Sequence[Export]) -> None:
        self._anchors, self._runs, self._sources = anchors, runs, sources
        self._formats = export_formats(exports)
        self._exports = {line.estimator: line.cells for line in export_lines(exports)}

    def estimator(self, found: Everything) -> dict[str, Any]:
        """One estimator as plain texts."""
        source = self._sources.estimator(found.name, found.distribution)
        rows = [appearance.row for appearance in found.appearances]
        return {
            "id": self._anchors.of("estimator", found.name),
            "name": found.name,
            "role": role_of(found.name),
            "about": source.about,
            "citations": source.citations,
            "origin": found.distribution,
            "ranked": sum(appearance.standing.rank is not None for appearance in found.appearances),
            "wins": [self._link(appearance) for appearance in found.appearances if appearance.wins],
            "losses": [self._link(appearance) for appearance in found.appearances if appearance.loses],
            "gates": _gate_counts(rows),
            "costs": [_cost(found.appearances, key) for key in COSTS],
            "exports": [{"format": name, "text": cell.text, "exports": cell.exports} for name, cell in self._exported(found.name)],
            "lines": [self._line(appearance) for appearance in found.appearances],
            "runs": [self._runs.view(run) for run in found.runs if self._runs.shows(run)],
            "good": sum(len(row.runs) for row in rows),
            "failed": len(found.failed),
            "skipped": len(found.skipped),
        }

    def _exported(self, name: str) -> list[tuple[str, ExportCell]]:
        untried = [ExportCell("not tried", exports=False)] * len(self._formats)
        return list(zip(self._formats, self._exports.get(name, untried), strict=True))

    def _link(self, appearance: Appearance) -> dict[str, str]:
        anchor = table_anchor(self._anchors, appearance.section, appearance.number)
        return {"anchor": anchor, "text": f"{toy_label(appearance.section)}, {appearance.table.budget}"}

    def _line(self, appearance: Appearance) -> dict[str, Any]:
        row, standing, table = appearance.row, appearance.standing, appearance.table
        columns = {column.key: headline(table, row, column, hints=False) for column in table.columns}
        return {
            "toy": toy_label(appearance.section),
            "anchor": table_anchor(self._anchors, appearance.section, appearance.number),
            "options": shorten(row.label[len(row.estimator) :].strip(), LONGEST_OPTIONS),
            "budget": table.budget,
            "n_train": table.n_train,
            "design": row.design,
            "evaluation": table.evaluation,
            "rank": f"{standing.rank} of {appearance.ranked}" if standing.rank else "not ranked",
            "order": standing.rank or "",
            "group": standing.group,
            "primary": next((column.title for column in table.columns if column.metric == table.primary), ""),
            "value": next((columns[column.key] for column in table.columns if column.metric == table.primary), None),
            "gates": gate_text(row),
            "gates_passed": list(gate_states(row).values()).count("pass"),
            "costs": [columns[key] for key in COSTS],
            "runs": self._runs.links((*row.runs, *row.failed)),
        }


def everything(sections: Iterable[Section]) -> list[Everything]:
    """All estimators of the records, entries first, by name."""
    found: dict[str, Everything] = {}
    for section in sections:
        for number, table in enumerate(section.tables, start=1):
            for standing in table.standings:
                name = standing.row.estimator
                found.setdefault(name, Everything(name)).appearances.append(Appearance(section, table, number, standing))
        for runs, status in ((section.failed, "failed"), (section.skipped, "skipped")):
            for run in runs:
                name = run.record.estimator.name
                getattr(found.setdefault(name, Everything(name)), status).append(run)
    return sorted(found.values(), key=lambda one: (role_of(one.name) != "entry", one.name))


def _gate_counts(rows: Iterable[Row]) -> dict[str, int]:
    states = [state for row in rows for state in gate_states(row).values()]
    return {state: states.count(state) for state in ("pass", "fail", "undecided")} if states else {}


def _cost(appearances: Sequence[Appearance], key: str) -> dict[str, str]:
    """Range of a cost over the rows, sorted by its median."""
    values = []
    for appearance in appearances:
        column = next(column for column in appearance.table.columns if column.key == key)
        cell = appearance.table.cell(appearance.row, column)
        values += [cell.value] if cell is not None and cell.value is not None else []
    if not values:
        return {"text": "n/a", "sort": ""}
    low, high = format_number(min(values)), format_number(max(values))
    return {"text": low if low == high else f"{low} \N{EN DASH} {high}", "sort": repr(median(values))}
