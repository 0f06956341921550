"""What the page's comparison works with: the headline numbers of every row, by seed, as compact JSON.

The browser subtracts badness (`touchneedle.reports.ranking.badness`): seed by seed where two rows share three seeds or more, else
between the means of the rows. Withheld numbers are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.anchors import Anchors
from touchneedle.reports.figures import shorten
from touchneedle.reports.numbers import format_cell
from touchneedle.reports.page_toys import LONGEST_OPTIONS, table_anchor, toy_label, traits
from touchneedle.reports.ranking import badness
from touchneedle.reports.rows import Row
from touchneedle.reports.sections import Section, Table

# Fewer seeds than this say too little about their spread.
PAIRED_SEEDS = 3
_DIGITS = 6


def comparison(sections: Sequence[Section], anchors: Anchors) -> dict[str, Any]:
    """Columns (key, title), entries (label, role, anchor), tables (toy, anchor, budget, evaluation, traits, primary, n_train), cells.

    A cell is (table, entry, design, column, text, badness, its error or None, limit, {seed: badness}).
    """
    columns: dict[str, str] = {}
    entries: dict[tuple[str, ...], int] = {}
    called: list[list[str]] = []
    tables: list[list[Any]] = []
    cells: list[list[Any]] = []
    labels = _labels([row for section in sections for table in section.tables for row in table.rows])
    for section in sections:
        for number, table in enumerate(section.tables, start=1):
            columns |= {column.key: column.title for column in table.columns}
            tables.append(_table(section, table, number, anchors))
            for row in table.rows:
                if _identity(row) not in entries:
                    entries[_identity(row)] = len(called)
                    called.append([labels[_identity(row)], row.role, anchors.of("estimator", row.estimator)])
                where = [len(tables) - 1, entries[_identity(row)], row.design]
                cells += [[*where, list(columns).index(key), *numbers] for key, numbers in _cells(table, row)]
    return {"columns": list(columns.items()), "entries": called, "tables": tables, "cells": cells}


def script_json(value: Any) -> str:
    """JSON that no text can break out of inside a script element: pure ASCII, without ``<``, ``>`` and ``&``."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _identity(row: Row) -> tuple[str, ...]:
    return row.label, row.track, row.version, row.distribution


def _labels(rows: Sequence[Row]) -> dict[tuple[str, ...], str]:
    """What each contestant is called: its label, with its track, version and origin only where the label alone is shared."""
    found = dict.fromkeys(_identity(row) for row in rows)
    called: dict[tuple[str, ...], str] = {}
    for identity in found:
        label, *rest = identity
        shared = sum(other[0] == label for other in found) > 1
        name = " ".join([shorten(label, LONGEST_OPTIONS), *([f"({', '.join(rest)})"] if shared else [])])
        taken = list(called.values()).count(name)
        called[identity] = f"{name} #{taken + 1}" if taken else name
    return called


def _table(section: Section, table: Table, number: int, anchors: Anchors) -> list[Any]:
    primary = next((column.key for column in table.columns if column.metric == table.primary), "")
    anchor = table_anchor(anchors, section, number)
    return [toy_label(section), anchor, table.budget, table.evaluation, traits(section), primary, table.n_train]


def _cells(table: Table, row: Row) -> Iterator[tuple[str, list[Any]]]:
    for column in table.columns:
        cell = table.cell(row, column)
        if cell is not None and cell.value is not None and not math.isnan(cell.value) and not table.why_withheld(cell):
            value, error = badness(cell)
            stated = None if cell.stderr is None else _number(error)
            yield column.key, [format_cell(cell), _number(value), stated, cell.censored, _by_seed(cell)]


def _by_seed(cell: Cell) -> dict[str, Any]:
    """Badness of each seed; empty where there are too few for a spread."""
    if cell.n_seeds < PAIRED_SEEDS:
        return {}
    seeds = [seed for seed in cell.seeds if seed.value is not None]
    return {str(seed.seed): _number(badness(replace(cell, value=seed.value, stderr=seed.stderr))[0]) for seed in seeds}


def _number(value: float) -> float | str:
    """Rounded; infinities, which JSON lacks, as JavaScript reads them."""
    if math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return "Infinity" if value > 0 else "-Infinity"
