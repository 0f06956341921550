"""The leaderboard as CSV (every number, full precision) and as Markdown (headline tables)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from touchneedle.benchmark.export_rows import Export
from touchneedle.benchmark.records import Record
from touchneedle.benchmark.verdicts import Verdict, summary
from touchneedle.reports.aggregate import Cell
from touchneedle.reports.audit import ABOUT, audit_lines, audit_metrics
from touchneedle.reports.exports import ABOUT_EXPORTS, export_formats, export_lines
from touchneedle.reports.numbers import format_cell, format_count
from touchneedle.reports.rows import Problem, Row, Run, canonical, role_of
from touchneedle.reports.sections import Column, Section, Table
from touchneedle.reports.speed_rows import Speed
from touchneedle.reports.speeds import ABOUT_SPEEDS, SPEED_TITLES, speed_lines, speed_summary
from touchneedle.reports.surveys import NOTHING, Surveys

CSV_FIELDS = (
    *("status", "toy", "toy_version", "toy_params", "estimator", "estimator_version", "distribution", "options", "role", "track"),
    *("budget", "n_train", "design", "evaluation", "rank", "group", "seeds"),
    *("family", "metric", "parameter", "point", "n_events", "at", "value", "stderr", "n_seeds", "censored", "mean_abs", "null"),
    *("direction", "state", "withheld", "reason"),
)
_OWN_COLUMNS = ("parameter", "point", "n_events")


def to_csv(sections: Sequence[Section], problems: Sequence[Problem]) -> str:
    """One line per (row, metric, place); then one line per failed or skipped run and per unreadable file."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for table in section.tables:
            writer.writerows(_metric_lines(table))
        writer.writerows(_run_line(run) for run in [*section.failed, *section.skipped])
    writer.writerows({"status": "unreadable", "reason": f"{problem.file}: {problem.reason}"} for problem in problems)
    return buffer.getvalue()


def to_markdown(
    sections: Sequence[Section],
    problems: Sequence[Problem],
    guide: Sequence[tuple[str, str]],
    surveys: Surveys = NOTHING,
    overview: Sequence[str] = (),
) -> str:
    """The overview, headline tables per toy, failures and skips, the audit, the exports, the speeds, and how to read them."""
    lines = ["# Touchneedle leaderboard", "", *overview]
    for section in sections:
        lines += _section_lines(section)
    if problems:
        lines += ["## Files that could not be read", ""]
        lines += [f"- {escape(problem.file)}: {escape(problem.reason)}" for problem in problems] + [""]
    if surveys.verdicts:
        lines += _audit_section(surveys.verdicts)
    if surveys.exports:
        lines += _export_section(surveys.exports)
    if surveys.speeds:
        lines += _speed_section(surveys.speeds)
    lines += ["## How to read this", "", *(f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in guide)]
    return "\n".join(lines) + "\n"


def headline_text(table: Table, row: Row, column: Column) -> str:
    """What stands in a headline column: the number, ``n/a`` or ``withheld``."""
    cell = table.cell(row, column)
    if cell is None:
        return "n/a"
    return "withheld" if table.why_withheld(cell) else format_cell(cell)


def gate_states(row: Row) -> dict[str, str]:
    """Gate without its prefix -> pass, fail or undecided; gates that do not apply are left out."""
    return {cell.name.removeprefix("gate_"): cell.state for cell in row.cells if cell.family == "gates" and cell.state}


def gate_text(row: Row) -> str:
    """How many gates pass, and by name those that fail or are undecided."""
    states = gate_states(row)
    if not states:
        return "n/a"
    named = [(state, [gate for gate, found in states.items() if found == state]) for state in ("fail", "undecided")]
    passed = sum(state == "pass" for state in states.values())
    return "; ".join([f"{passed} pass", *(f"{state}: {', '.join(gates)}" for state, gates in named if gates)])


def identity_texts(row: Row) -> tuple[str, str, str, str]:
    """Estimator (with role, track, foreign origin), design, budget, seeds: the columns before the numbers."""
    marks: list[str] = [] if row.role == "entry" else [row.role]
    marks += [] if row.track == "default" else [row.track]
    label = row.label + (f" ({', '.join(marks)})" if marks else "")
    seeds = str(len(row.seeds)) + (f" ({len(row.failed)} failed)" if row.failed else "")
    return label, row.design, f"{row.budget} {format_count(row.n_train)}", seeds


def outcome_groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Failed or skipped runs, those with the same cell and reason together, by seed."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        record = run.record
        evaluation = canonical(record.config.get("evaluation"))
        key = (record.estimator.name, canonical(record.estimator.params), record.budget.name, record.design, evaluation, record.reason)
        groups.setdefault(key, []).append(run)
    return [sorted(group, key=lambda run: run.record.seed) for group in groups.values()]


def toy_title(section: Section) -> str:
    """Name, version and options of a section's toy."""
    name, version, params = section.toy
    return name + (f" (version {version})" if version else "") + (f" {params}" if params != "{}" else "")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line, inside a table."""
    flat = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", flat)


def table_row(texts: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(escape(text) for text in texts) + " |"


def _section_lines(section: Section) -> list[str]:
    lines = [f"## {escape(toy_title(section))}", ""]
    if section.other_versions:
        lines += ["Other versions or options of this toy stand in sections of their own; their numbers are never mixed.", ""]
    for table in section.tables:
        lines += _table_lines(table)
    for title, runs in (("Failed", section.failed), ("Skipped", section.skipped)):
        if runs:
            lines += [f"### {title}", "", *(_outcome_line(group) for group in outcome_groups(runs)), ""]
    return lines


def _table_lines(table: Table) -> list[str]:
    evaluation = f", evaluation {escape(table.evaluation)}" if table.evaluation else ""
    lines = [f"### Budget {escape(table.budget)} ({table.n_train:,} training events){evaluation}", ""]
    lines += [f"Ordered by {escape(table.primary) or 'name'}.", ""]
    titles = ["rank", "estimator", "design", "budget", "seeds", *(column.title for column in table.columns), "gates"]
    lines += [table_row(titles), "|" + "---|" * len(titles)]
    for standing in table.standings:
        rank = f"{standing.rank} {standing.group}" if standing.rank else "-"
        numbers = (headline_text(table, standing.row, column) for column in table.columns)
        lines.append(table_row([rank, *identity_texts(standing.row), *numbers, gate_text(standing.row)]))
    lines += [""] + [f"- withheld: controls misordered: {escape(f'{w.metric} ({w.place}): {w.why}')}" for w in table.withheld.values()]
    return [*lines, ""] if table.withheld else lines


def _audit_section(verdicts: Sequence[Verdict]) -> list[str]:
    titles = ["what is wrong", "toy", "seeds", "gates that flag it", *audit_metrics(verdicts)]
    lines = ["## Audit of the scores", "", ABOUT, "", *(f"- {escape(text)}" for text in summary(verdicts)), ""]
    lines += [table_row(titles), "|" + "---|" * len(titles)]
    for line in audit_lines(verdicts):
        numbers = [f"**{escape(cell.text)}**" if cell.flagged else escape(cell.text) for cell in line.cells]
        identity = (escape(text) for text in (line.about, line.toy, str(line.seeds), line.gates))
        lines.append("| " + " | ".join([*identity, *numbers]) + " |")
    return [*lines, ""]


def _export_section(rows: Sequence[Export]) -> list[str]:
    titles = ["estimator", *export_formats(rows)]
    lines = ["## Exports", "", ABOUT_EXPORTS, "", table_row(titles), "|" + "---|" * len(titles)]
    return [*lines, *(table_row([line.estimator, *(cell.text for cell in line.cells)]) for line in export_lines(rows)), ""]


def _speed_section(rows: Sequence[Speed]) -> list[str]:
    titles = (*SPEED_TITLES, "note")
    lines = ["## Speed", "", ABOUT_SPEEDS, "", speed_summary(rows), "", table_row(titles), "|" + "---|" * len(titles)]
    return [*lines, *(table_row([*line.cells, line.note]) for line in speed_lines(rows)), ""]


def _outcome_line(runs: Sequence[Run]) -> str:
    record, seeds = runs[0].record, ", ".join(str(seed) for seed in dict.fromkeys(run.record.seed for run in runs))
    what = f"{record.estimator.name}, budget {record.budget.name}, design {record.design}, seed {seeds}"
    return f"- {escape(what)}: {escape(record.reason or 'no reason given')}"


def _metric_lines(table: Table) -> Iterator[dict[str, Any]]:
    for standing in table.standings:
        row = standing.row
        shared = {
            **_cell_of_sweep(row.runs[0].record),
            "options": canonical(row.options),
            "evaluation": row.evaluation,
            "rank": standing.rank or "",
            "group": standing.group,
            "seeds": " ".join(str(seed) for seed in row.seeds),
        }
        for cell in row.cells:
            yield {**shared, **_numbers(cell, table.why_withheld(cell))}


def _numbers(cell: Cell, withheld: str) -> dict[str, Any]:
    shown = not withheld
    return {
        "family": cell.family,
        "metric": cell.name,
        **{name: _text(cell.at.get(name)) for name in _OWN_COLUMNS},
        "at": canonical({name: value for name, value in cell.at.items() if name not in _OWN_COLUMNS}),
        "value": _text(cell.value) if shown else "",
        "stderr": _text(cell.stderr) if shown else "",
        "n_seeds": cell.n_seeds,
        "censored": cell.censored,
        "mean_abs": _text(cell.mean_abs) if shown else "",
        "null": _text(cell.null),
        "direction": cell.direction,
        "state": cell.state,
        "withheld": withheld,
        "reason": cell.reason,
    }


def _run_line(run: Run) -> dict[str, Any]:
    record = run.record
    evaluation = record.config.get("evaluation")
    name = evaluation.get("name", "") if isinstance(evaluation, dict) else ""
    return {**_cell_of_sweep(record), "evaluation": name, "seeds": record.seed, "reason": record.reason}


def _cell_of_sweep(record: Record) -> dict[str, Any]:
    return {
        "status": record.status,
        "toy": record.toy.name,
        "toy_version": record.toy.version,
        "toy_params": canonical(record.toy.params),
        "estimator": record.estimator.name,
        "estimator_version": record.estimator.version,
        "distribution": record.estimator.distribution,
        "options": canonical(record.estimator.params),
        "role": role_of(record.estimator.name),
        "track": record.track,
        "budget": record.budget.name,
        "n_train": record.budget.n_train,
        "design": record.design,
    }


def _text(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
