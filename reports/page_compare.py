"""What the page's comparison works with: the headline numbers of every row, by seed, as compact JSON.

The browser subtracts badness (`touchneedle.reports.ranking.badness`): seed by seed where two rows share three seeds or more, else
between the means of the rows. Withheld numbers are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scipy.stats import norm
from scipy.stats import t as student

from touchneedle.conf.sources import Sources
from touchneedle.reports.aggregate import Cell
from touchneedle.reports.anchors import Anchors
from touchneedle.reports.figures import shorten
from touchneedle.reports.numbers import format_cell
from touchneedle.reports.page_toys import LONGEST_OPTIONS, table_anchor, toy_label, traits
from touchneedle.reports.ranking import SIGMAS, badness
from touchneedle.reports.rows import Row
from touchneedle.reports.sections import Section, Table

# Fewer seeds than this say too little about their spread.
PAIRED_SEEDS = 3
_DIGITS = 6


def comparison(sections: Sequence[Section], anchors: Anchors, sources: Sources, *, seeds: bool = True) -> dict[str, Any]:
    """Columns, entries, tables, rows, and what paired differences need to count (`needed_errors`).

    A column is (key, title), an entry (label, role, anchor), a table (toy, anchor, budget, n_train, primary, traits). A row
    is (table, entry, design, numbers by column); a number is (text, badness, its error or None), then its limit and {seed: badness}
    where it has them. Without ``seeds`` nothing is paired.
    """
    columns: dict[str, str] = {}
    entries: dict[tuple[str, ...], int] = {}
    called: list[list[str]] = []
    tables: list[list[Any]] = []
    rows: list[list[Any]] = []
    labels = _labels([row for section in sections for table in section.tables for row in table.rows])
    for section, number, table in _numbered(sections):
        columns |= {column.key: column.title for column in table.columns}
        tables.append([*_table(section, table, number, anchors), traits(section, sources.toy(section.toy[0]))])
        for row in table.rows:
            if _identity(row) not in entries:
                entries[_identity(row)] = len(called)
                called.append([labels[_identity(row)], row.role, anchors.of("estimator", row.estimator)])
            numbers = {str(list(columns).index(key)): number for key, number in _cells(table, row, seeds)}
            rows.append([len(tables) - 1, entries[_identity(row)], row.design, numbers])
    most = max((len(row.seeds) for section in sections for table in section.tables for row in table.rows), default=0)
    return {"columns": list(columns.items()), "entries": called, "tables": tables, "rows": rows, "needed": needed_errors(most)}


def shown_columns(compared: Mapping[str, Any]) -> set[str]:
    """Keys of the columns in which some row has a number."""
    return {compared["columns"][int(column)][0] for *_, numbers in compared["rows"] for column in numbers}


def needed_errors(most: int) -> dict[str, float]:
    """Pairs -> standard errors of their mean that weigh as much as `SIGMAS` of a normal one (Student's t)."""
    return {str(pairs): round(float(student.isf(norm.sf(SIGMAS), pairs - 1)), 4) for pairs in range(PAIRED_SEEDS, most + 1)}


def script_json(value: Any) -> str:
    """JSON that no text can break out of inside a script element: without ``<``, ``>``, ``&`` and line separators."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _numbered(sections: Sequence[Section]) -> Iterator[tuple[Section, int, Table]]:
    for section in sections:
        for number, table in enumerate(section.tables, start=1):
            yield section, number, table


def _identity(row: Row) -> tuple[str, ...]:
    return row.label, row.track, row.version, row.distribution


def _labels(rows: Sequence[Row]) -> dict[tuple[str, ...], str]:
    """What each contestant is called: its label, with its track, version and origin only where the label alone is shared."""
    found = dict.fromkeys(_identity(row) for row in rows)
    shared = Counter(label for label, *_ in found)
    called: dict[tuple[str, ...], str] = {}
    taken: Counter[str] = Counter()
    for identity in found:
        label, *rest = identity
        name = shorten(label, LONGEST_OPTIONS) + (f" ({', '.join(rest)})" if shared[label] > 1 else "")
        taken[name] += 1
        called[identity] = f"{name} #{taken[name]}" if taken[name] > 1 else name
    return called


def _table(section: Section, table: Table, number: int, anchors: Anchors) -> list[Any]:
    primary = next((column.key for column in table.columns if column.metric == table.primary), "")
    anchor = table_anchor(anchors, section, number)
    return [toy_label(section), anchor, table.budget, table.n_train, primary]


def _cells(table: Table, row: Row, seeds: bool) -> Iterator[tuple[str, list[Any]]]:
    for column in table.columns:
        cell = table.cell(row, column)
        if cell is not None and cell.value is not None and not math.isnan(cell.value) and not table.why_withheld(cell):
            value, error = badness(cell)
            stated = None if cell.stderr is None else _number(error)
            by_seed = _by_seed(cell) if seeds else {}
            rest = [cell.censored, by_seed] if cell.censored or by_seed else []
            yield column.key, [format_cell(cell), _number(value), stated, *rest]


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
