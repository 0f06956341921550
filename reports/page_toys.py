"""Toys on the page: what each is there for, its rankings with figures and all numbers, what failed; and the index of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from touchneedle.conf.sources import Source, Sources
from touchneedle.reports.aggregate import Cell
from touchneedle.reports.anchors import Anchors
from touchneedle.reports.figures import Figure, shorten
from touchneedle.reports.numbers import PLUS_MINUS, format_cell, format_count, format_number
from touchneedle.reports.page_runs import RunViews
from touchneedle.reports.ranking import Standing
from touchneedle.reports.rows import Row, Run, canonical
from touchneedle.reports.sections import Column, Section, Table
from touchneedle.reports.text_tables import gate_states, gate_text, headline_text, identity_texts, outcome_groups, toy_title
from touchneedle.reports.thinning import Thinning

LONGEST_OPTIONS = 120


class ToyViews:
    """Makes the views of toys, one section at a time."""

    def __init__(self, anchors: Anchors, runs: RunViews, sources: Sources, thinning: Thinning) -> None:
        self._anchors, self._runs, self._sources, self._thinning = anchors, runs, sources, thinning

    def section(self, section: Section, figures: Sequence[Sequence[Figure]]) -> dict[str, Any]:
        """One toy in one version as plain texts."""
        source = self._sources.toy(section.toy[0])
        tables = zip(section.tables, figures, strict=True)
        return {
            "id": toy_anchor(self._anchors, section),
            "title": shorten(toy_title(section), LONGEST_OPTIONS),
            "name": section.toy[0],
            "label": toy_label(section),
            "about": source.about,
            "exposes": source.exposes,
            "citations": source.citations,
            "traits": traits(section, source),
            "parameter": section.parameter,
            "other_versions": section.other_versions,
            "tables": [self._table(section, table, number, drawn) for number, (table, drawn) in enumerate(tables, start=1)],
            "outcomes": [
                {"title": title, "lines": [self._outcome(group) for group in outcome_groups(runs)]}
                for title, runs in (("Failed", section.failed), ("Skipped", section.skipped))
                if runs
            ],
        }

    def _table(self, section: Section, table: Table, number: int, figures: Sequence[Figure]) -> dict[str, Any]:
        place = table_anchor(self._anchors, section, number)
        drawn = [figure for figure in figures if figure.picture.svg][: self._thinning.figures]
        return {
            "id": place,
            "title": table_title(table),
            "evaluation": table.evaluation,
            "n_train": table.n_train,
            "primary": table.primary,
            "columns": table.columns,
            "lines": [self._line(table, standing, order) for order, standing in enumerate(table.standings, start=1)],
            "best": [self._name(standing) for standing in table.standings if standing.group == "a"],
            "ranked": sum(standing.rank is not None for standing in table.standings),
            "withheld": list(table.withheld.values()),
            "figures": [self._figure(place, figure) for figure in drawn],
            "missing": [_missing(figure) for figure in figures if not figure.picture.svg],
            "rows": [self._row(table, row) for row in table.rows] if self._thinning.numbers != "none" else [],
        }

    def _figure(self, place: str, figure: Figure) -> dict[str, Any]:
        picture = figure.picture
        anchor = self._anchors.of("figure", f"{place.removeprefix('ranking-')}-{figure.name}", place)
        return {"id": anchor, "title": figure.title, "svg": Markup(picture.svg), "caption": picture.caption, "notes": picture.notes}

    def _name(self, standing: Standing) -> dict[str, str]:
        row = standing.row
        return {"name": shorten(row.label, LONGEST_OPTIONS), "design": row.design, "anchor": self._anchors.of("estimator", row.estimator)}

    def _line(self, table: Table, standing: Standing, order: int) -> dict[str, Any]:
        row = standing.row
        label, design, _, seeds = identity_texts(row)
        gates = gate_states(row)
        return {
            "rank": f"{standing.rank}" if standing.rank else "\N{EN DASH}",
            "group": standing.group,
            "order": order,
            "role": row.role,
            "estimator": row.estimator,
            "anchor": self._anchors.of("estimator", row.estimator),
            "marks": label[len(row.label) :].strip(" ()"),
            "options": shorten(row.label[len(row.estimator) :].strip(), LONGEST_OPTIONS),
            "origin": "" if row.distribution in ("", "touchneedle") else row.distribution,
            "design": design,
            "budget": format_count(row.n_train),
            "n_train": row.n_train,
            "seeds": seeds,
            "n_seeds": len(row.seeds),
            "cells": [headline(table, row, column, hints=self._thinning.hints) for column in table.columns],
            "gates": gates,
            "gates_passed": list(gates.values()).count("pass") if gates else "",
            "gates_title": gate_text(row),
        }

    def _row(self, table: Table, row: Row) -> dict[str, Any]:
        cells = [cell for cell in row.cells if self._thinning.numbers == "all" or cell.at.get("point") in (None, 0)]
        return {
            "title": row.label,
            "subtitle": f"{row.design}, {len(row.seeds)} seed{'' if len(row.seeds) == 1 else 's'}, version {row.version or '-'}",
            "notes": row.notes,
            "metrics": [_metric(table, cell) for cell in cells],
            "runs": self._runs.links((*row.runs, *row.failed)),
        }

    def _outcome(self, runs: Sequence[Run]) -> dict[str, Any]:
        record = runs[0].record
        return {
            "estimator": record.estimator.name,
            "anchor": self._anchors.of("estimator", record.estimator.name),
            "options": shorten(canonical(record.estimator.params), LONGEST_OPTIONS) if record.estimator.params else "",
            "budget": record.budget.name,
            "design": record.design,
            "runs": self._runs.links(runs),
            "reason": record.reason or "no reason given",
        }


def toy_label(section: Section) -> str:
    """What a toy is called in a table: its version and options only where there are several."""
    return shorten(toy_title(section), LONGEST_OPTIONS) if section.other_versions else section.toy[0]


def toy_anchor(anchors: Anchors, section: Section) -> str:
    """Where a toy stands: ``toy-NAME`` for its first version."""
    return anchors.of("toy", *section.toy)


def toy_anchors(sections: Sequence[Section]) -> list[str]:
    """Where the toys stand on a page of these sections."""
    anchors = Anchors()
    return [toy_anchor(anchors, section) for section in sections]


def table_anchor(anchors: Anchors, section: Section, number: int) -> str:
    """Where a ranking of a toy stands."""
    return anchors.of("ranking", f"{section.toy[0]}-{number}", *section.toy, str(number))


def table_title(table: Table) -> str:
    """Budget of a ranking."""
    return f"Budget {shorten(table.budget)}: {table.n_train:,} training events"


def traits(section: Section, source: Source) -> list[str]:
    """What sets a toy apart, as words to choose by: its truth, its nuisances, its maxima."""
    fitted = _fitted(section)
    nuisances = {*source.nuisances, *(name for name, kind in fitted if kind == "nuisance")}
    if not source.counted:
        nuisances |= {name for name, _ in fitted if name not in source.interest}
    known = bool(source.about or nuisances)
    return [
        *([source.truth] if source.truth else []),
        *([_plural(len(nuisances), "nuisance")] if known else []),
        *([] if source.regular else ["several maxima"]),
    ]


def headline(table: Table, row: Row, column: Column, *, hints: bool = True) -> dict[str, Any]:
    """One number of a ranking: its text, the key to sort it by, what a pointer shows (if it gives ``hints``)."""
    cell = table.cell(row, column)
    why = table.why_withheld(cell) if cell else ""
    shown = cell is not None and cell.value is not None and not why
    return {
        "text": headline_text(table, row, column),
        "sort": sort_key(cell) if cell is not None and shown else "",
        "size": _size(cell) if cell is not None and shown and column.key.startswith("bias") else "",
        "title": _hint(cell, why) if hints else "",
        "muted": not shown,
    }


def sort_key(cell: Cell) -> str:
    """The number to sort by; empty without one."""
    return "" if cell.value is None or math.isnan(cell.value) else f"{cell.value:.9g}"


def _missing(figure: Figure) -> str:
    return "; ".join(figure.picture.notes) or f"nothing to draw for {figure.title.lower()}"


def _plural(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _fitted(section: Section) -> set[tuple[str, str]]:
    cells = (cell.at for table in section.tables for row in table.rows for cell in row.cells if cell.family == "fit")
    return {(str(at["parameter"]), str(at.get("kind", ""))) for at in cells if at.get("parameter")}


def _size(cell: Cell) -> str:
    """Mean size over seeds, where signs cancel in the mean itself."""
    if cell.value is None or cell.mean_abs is None or math.isclose(cell.mean_abs, abs(cell.value)):
        return ""
    return f"size {format_number(cell.mean_abs, cell.stderr).partition(PLUS_MINUS)[0]}"


def _hint(cell: Cell | None, withheld: str) -> str:
    if withheld:
        return f"controls misordered: {withheld}"
    if cell is None:
        return "the run has no such number"
    parts = [_where(cell), f"seeds {_seed_values(cell)}" if len(cell.seeds) > 1 else "", cell.reason]
    return "; ".join(part for part in parts if part)


def _metric(table: Table, cell: Cell) -> dict[str, str]:
    why = table.why_withheld(cell)
    notes = [f"withheld: controls misordered ({why})" if why else "", cell.reason]
    return {
        "name": cell.metric,
        "where": _where(cell),
        "value": "withheld" if why else format_cell(cell),
        "seeds": "" if why or len(cell.seeds) < 2 else _seed_values(cell),
        "null": "" if cell.null is None else format_number(cell.null),
        "note": "; ".join(note for note in notes if note),
    }


def _where(cell: Cell) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell.at.items() if name != "kind" and value is not None)


def _seed_values(cell: Cell) -> str:
    limits = {"above": "> ", "below": "< ", "": ""}
    return ", ".join(f"{s.seed}: {'n/a' if s.value is None else limits[s.censored] + format_number(s.value)}" for s in cell.seeds)
