"""The leaderboard: records in; one HTML page, the same as Markdown, CSV and parquet, and a summary for programs out.

A pure function of the results folder: equal folders give equal bytes. An audit, a survey of exports and measured speeds beside
the records have their own tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from touchneedle.benchmark.records import write_atomically
from touchneedle.reports.figures import draw_all
from touchneedle.reports.guide import GUIDE
from touchneedle.reports.overview import build_overview
from touchneedle.reports.overview_text import overview_markdown, overview_view
from touchneedle.reports.page import render_page
from touchneedle.reports.page_toys import toy_anchors
from touchneedle.reports.parquet_table import to_parquet
from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import build_sections
from touchneedle.reports.summary import to_summary
from touchneedle.reports.surveys import read_surveys
from touchneedle.reports.text_tables import to_csv, to_markdown


@dataclass(frozen=True)
class Report:
    """What was written, and one line for each file that could not be read (the command then exits non-zero)."""

    paths: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_report(results: Path, out: Path, against: Path | None = None) -> Report:
    """Write ``leaderboard.html``, ``.md``, ``.csv``, ``.parquet`` and ``summary.json`` into ``out``.

    ``against`` is another results folder: what changed since then beyond its errors is told in the overview.

    Raises:
        InputError: if ``results`` or ``against`` is no folder or holds no record, or ``out`` cannot be written.
    """
    found = read_results(results)
    surveys = read_surveys(results, found)
    sections = build_sections(found)
    figures = [[draw_all(table.rows, section.parameter) for table in section.tables] for section in sections]
    drawn = [figure for tables in figures for table in tables for figure in table]
    problems = [*found.problems, *(problem for figure in drawn for problem in figure.picture.problems)]
    overview = build_overview(sections, surveys.exports, against, toy_anchors(sections))
    rows = to_csv(sections, problems)
    contents: dict[str, str | bytes] = {
        "leaderboard.html": render_page(sections, problems, figures, surveys, overview_view(overview)),
        "leaderboard.md": to_markdown(sections, problems, GUIDE, surveys, overview_markdown(overview)),
        "leaderboard.csv": rows,
        "leaderboard.parquet": to_parquet(rows),
        "summary.json": to_summary(overview),
    }
    paths = [Path(out) / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomically(path, content)
    return Report(paths, [f"{problem.file}: {problem.reason}" for problem in problems])
