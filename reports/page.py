"""The self-contained HTML page: sections to a view of plain texts, then the template.

The template escapes everything; only the figures (our own SVG) and our own style and script are inserted as they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from touchneedle.benchmark.export_rows import Export
from touchneedle.benchmark.records import Record
from touchneedle.benchmark.verdicts import Verdict, summary
from touchneedle.reports.aggregate import Cell
from touchneedle.reports.audit import ABOUT, audit_lines, audit_metrics
from touchneedle.reports.exports import ABOUT_EXPORTS, export_formats, export_lines
from touchneedle.reports.figures import Picture, shorten
from touchneedle.reports.guide import GUIDE
from touchneedle.reports.losses import loss_picture
from touchneedle.reports.numbers import PLUS_MINUS, format_cell, format_count, format_number
from touchneedle.reports.ranking import Standing
from touchneedle.reports.repeat import repeat_command
from touchneedle.reports.rows import Problem, Row, Run, canonical
from touchneedle.reports.sections import Column, Section, Table
from touchneedle.reports.text_tables import gate_states, gate_text, headline_text, identity_texts, outcome_groups, toy_title

FOLDER = Path(__file__).parent
MAX_BYTES = 3_000_000
MAX_TRACEBACK = 20_000
# What is left out, step by step, while the page is too large; the CSV file always holds every number.
_STEPS = (
    ("every number", ""),
    ("nominal", "Details are limited to the nominal point to keep this page small; leaderboard.csv holds every number."),
    ("none", "Details are left out to keep this page small; leaderboard.csv holds every number."),
    ("no figures", "Details and figures are left out to keep this page small; leaderboard.csv holds every number."),
)


@dataclass
class Environments:
    """Environments met so far, numbered: many runs share one."""

    texts: dict[str, int] = field(default_factory=dict)

    def number(self, environment: dict[str, Any]) -> int:
        """Number from 1 of an environment."""
        return self.texts.setdefault(pretty(environment), len(self.texts) + 1)


def render_page(
    sections: Sequence[Section],
    problems: Sequence[Problem],
    pictures: Sequence[Sequence[Picture]],
    verdicts: Sequence[Verdict] = (),
    exports: Sequence[Export] = (),
    overview: dict[str, Any] | None = None,
) -> str:
    """The page; details are thinned out, and the page says so, until it is below `MAX_BYTES`."""
    page = ""
    for step, note in _STEPS:
        page = _render(sections, problems, pictures, verdicts, exports, overview, step, note)
        if len(page.encode()) < MAX_BYTES:
            break
    return page


def pretty(value: Any) -> str:
    """Nested options as sorted, indented text."""
    return json.dumps(value, indent=1, sort_keys=True, default=str, ensure_ascii=False)


def _render(
    sections: Sequence[Section],
    problems: Sequence[Problem],
    pictures: Sequence[Sequence[Picture]],
    verdicts: Sequence[Verdict],
    exports: Sequence[Export],
    overview: dict[str, Any] | None,
    step: str,
    note: str,
) -> str:
    environments = Environments()
    views = [_section(index, section, pictures[index], step, environments) for index, section in enumerate(sections)]
    script = (FOLDER / "leaderboard.js").read_text(encoding="utf-8")
    loader = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return loader.get_template("leaderboard.html").render(
        sections=views,
        problems=problems,
        guide=GUIDE,
        audit=_audit(verdicts),
        exports=_exports(exports),
        overview=overview,
        note=note,
        environments=list(environments.texts.items()),
        style=Markup((FOLDER / "leaderboard.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _audit(verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    if not verdicts:
        return None
    return {"about": ABOUT, "metrics": audit_metrics(verdicts), "lines": audit_lines(verdicts), "summary": summary(verdicts)}


def _exports(rows: Sequence[Export]) -> dict[str, Any] | None:
    return {"about": ABOUT_EXPORTS, "formats": export_formats(rows), "lines": export_lines(rows)} if rows else None


def _section(index: int, section: Section, pictures: Sequence[Picture], step: str, environments: Environments) -> dict[str, Any]:
    return {
        "id": f"toy-{index + 1}",
        "title": toy_title(section),
        "name": section.toy[0],
        "parameter": section.parameter,
        "other_versions": section.other_versions,
        "tables": [
            _table(table, picture, step, environments, section.parameter) for table, picture in zip(section.tables, pictures, strict=True)
        ],
        "outcomes": [
            {"title": title, "lines": [_outcome(record, seeds) for record, seeds in outcome_groups(runs)]}
            for title, runs in (("Failed", section.failed), ("Skipped", section.skipped))
            if runs
        ],
    }


def _table(table: Table, picture: Picture, step: str, environments: Environments, parameter: str) -> dict[str, Any]:
    metrics_shown = step == "every number" or step == "nominal"
    return {
        "title": f"Budget {table.budget}: {table.n_train:,} training events",
        "evaluation": table.evaluation,
        "primary": table.primary,
        "columns": table.columns,
        "lines": [_line(table, standing, order) for order, standing in enumerate(table.standings, start=1)],
        "withheld": list(table.withheld.values()),
        "svg": Markup(picture.svg) if step != "no figures" else "",
        "notes": picture.notes,
        "caption": _caption(parameter),
        "rows": [_row(table, row, step, environments) for row in table.rows] if metrics_shown else [],
    }


def _caption(parameter: str) -> str:
    return (
        f"Exact (black) against learned. Left: likelihood scan of {parameter or 'the parameter of interest'} for one frozen data set, "
        "nuisances at nominal. Right: median of learned minus exact log-ratio per bin, band from the 16 % to the 84 % quantile. "
        "First seed of each row; controls grey, baselines dotted."
    )


def _line(table: Table, standing: Standing, order: int) -> dict[str, Any]:
    row = standing.row
    label, design, _, seeds = identity_texts(row)
    return {
        "rank": f"{standing.rank}" if standing.rank else "\N{EN DASH}",
        "group": standing.group,
        "order": order,
        "role": row.role,
        "estimator": row.estimator,
        "marks": label[len(row.label) :].strip(" ()"),
        "options": shorten(row.label[len(row.estimator) :].strip(), 120),
        "origin": "" if row.distribution in ("", "touchneedle") else row.distribution,
        "design": design,
        "budget": format_count(row.n_train),
        "n_train": row.n_train,
        "seeds": seeds,
        "n_seeds": len(row.seeds),
        "cells": [_headline(table, row, column) for column in table.columns],
        "gates": gate_states(row),
        "gates_passed": list(gate_states(row).values()).count("pass") if gate_states(row) else "",
        "gates_title": gate_text(row),
    }


def _headline(table: Table, row: Row, column: Column) -> dict[str, Any]:
    cell = table.cell(row, column)
    why = table.why_withheld(cell) if cell else ""
    shown = cell is not None and cell.value is not None and not why
    return {
        "text": headline_text(table, row, column),
        "sort": _sort_key(cell) if cell is not None and shown else "",
        "size": _size(cell) if cell is not None and shown and column.key.startswith("bias") else "",
        "title": f"controls misordered: {why}" if why else (_hint(cell) if cell else "the run has no such number"),
        "muted": not shown,
    }


def _sort_key(cell: Cell) -> str:
    return "" if cell.value is None or math.isnan(cell.value) else repr(cell.value)


def _size(cell: Cell) -> str:
    """Mean size over seeds, where signs cancel in the mean itself."""
    if cell.value is None or cell.mean_abs is None or math.isclose(cell.mean_abs, abs(cell.value)):
        return ""
    return f"size {format_number(cell.mean_abs, cell.stderr).partition(PLUS_MINUS)[0]}"


def _hint(cell: Cell) -> str:
    parts = [_where(cell), f"seeds {_seed_values(cell)}" if len(cell.seeds) > 1 else "", cell.reason]
    return "; ".join(part for part in parts if part)


def _row(table: Table, row: Row, step: str, environments: Environments) -> dict[str, Any]:
    cells = [cell for cell in row.cells if step == "every number" or cell.at.get("point") in (None, 0)]
    return {
        "title": row.label,
        "subtitle": f"{row.design}, {len(row.seeds)} seed{'' if len(row.seeds) == 1 else 's'}, version {row.version or '-'}",
        "notes": row.notes,
        "metrics": [_metric(table, cell) for cell in cells],
        "runs": [_run(run, environments) for run in (*row.runs, *row.failed)],
    }


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


def _run(run: Run, environments: Environments) -> dict[str, Any]:
    record = run.record
    return {
        "id": record.run_id,
        "fit": record.fit_id,
        "seed": record.seed,
        "status": record.status,
        "reason": record.reason,
        "traceback": _tail(record.traceback),
        "command": repeat_command(record) if record.config else "",
        "config": canonical(record.config),
        "seeds": canonical(record.seeds),
        "cost": ", ".join(f"{name} {_plain_number(value)}" for name, value in sorted(record.cost.items())),
        "environment": environments.number(record.environment),
        "loss": Markup(loss_picture(run.curves)),
    }


def _outcome(record: Record, seeds: str) -> dict[str, Any]:
    return {
        "estimator": record.estimator.name,
        "options": canonical(record.estimator.params) if record.estimator.params else "",
        "budget": record.budget.name,
        "design": record.design,
        "seeds": seeds,
        "reason": record.reason or "no reason given",
        "traceback": _tail(record.traceback),
        "command": repeat_command(record) if record.config else "",
    }


def _tail(traceback: str) -> str:
    """The end of a traceback, where its cause stands."""
    return traceback if len(traceback) <= MAX_TRACEBACK else f"[first part left out]\n{traceback[-MAX_TRACEBACK:]}"


def _plain_number(value: float | int | str | None) -> str:
    return format_number(value) if isinstance(value, float) else str(value)
