"""The self-contained HTML page: sections to views of plain texts, then the templates.

The templates escape everything; only figures (our own SVG), our own style and scripts, and JSON made safe for a script element are
inserted as they are.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from touchneedle.benchmark.definitions import metric_definitions
from touchneedle.benchmark.export_rows import Export
from touchneedle.benchmark.verdicts import Verdict, summary
from touchneedle.conf.sources import Sources
from touchneedle.reports.anchors import Anchors
from touchneedle.reports.audit import ABOUT, audit_lines, audit_metrics
from touchneedle.reports.exports import ABOUT_EXPORTS, export_formats, export_lines
from touchneedle.reports.figures import Figure
from touchneedle.reports.guide import GUIDE
from touchneedle.reports.page_compare import comparison, script_json
from touchneedle.reports.page_estimators import EstimatorViews, everything
from touchneedle.reports.page_questions import questions
from touchneedle.reports.page_runs import RunViews
from touchneedle.reports.page_toys import ToyViews, toy_anchor
from touchneedle.reports.rows import Problem
from touchneedle.reports.sections import Section
from touchneedle.reports.speed_rows import Speed
from touchneedle.reports.speeds import ABOUT_SPEEDS, speed_summary, speed_topics
from touchneedle.reports.surveys import NOTHING, Surveys
from touchneedle.reports.thinning import Thinning, steps

FOLDER = Path(__file__).parent
SCRIPTS = ("leaderboard.js", "numbers.js", "compare.js")
MAX_BYTES = 3_000_000


def render_page(
    sections: Sequence[Section],
    problems: Sequence[Problem],
    figures: Sequence[Sequence[Sequence[Figure]]],
    surveys: Surveys = NOTHING,
    overview: dict[str, Any] | None = None,
) -> str:
    """The page (``figures`` by section and table); details are thinned out, and the page says so, until it is below `MAX_BYTES`."""
    page = ""
    for step in steps(sections, MAX_BYTES):
        page = _render(sections, problems, figures, surveys, overview, step)
        if len(page.encode()) < MAX_BYTES:
            break
    return page


def _render(
    sections: Sequence[Section],
    problems: Sequence[Problem],
    figures: Sequence[Sequence[Sequence[Figure]]],
    surveys: Surveys,
    overview: dict[str, Any] | None,
    step: Thinning,
) -> str:
    anchors = Anchors()
    for section in sections:
        toy_anchor(anchors, section)
    runs = RunViews(anchors, step.traceback, step.runs)
    sources = Sources()
    toys, estimators = ToyViews(anchors, runs, sources, step), EstimatorViews(anchors, runs, sources, surveys.exports)
    compared = comparison(sections, anchors, sources, seeds=step.hints)
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return (
        _templates()
        .get_template("leaderboard.html")
        .render(
            sections=[toys.section(section, figures[index]) for index, section in enumerate(sections)],
            estimators=[estimators.estimator(found) for found in everything(sections)],
            formats=export_formats(surveys.exports),
            questions=questions(compared, surveys.exports),
            compared=Markup(script_json(compared)),
            problems=problems,
            guide=GUIDE,
            definitions=_definitions(sections),
            audit=_audit(surveys.verdicts),
            exports=_exports(surveys.exports),
            speeds=_speeds(surveys.speeds),
            overview=overview,
            note=step.note,
            environments=runs.environments.texts,
            configurations=runs.configurations.texts,
            style=Markup((FOLDER / "leaderboard.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _templates() -> Environment:
    made = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["content"] = _content
    return made


def _content(text: str) -> Markup:
    """Text between tags, where quotes need no escaping: it makes a fifth of long JSON."""
    return Markup(html.escape(text, quote=False))


def _definitions(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Metrics of the records that their sources define."""
    met = {cell.metric for section in sections for table in section.tables for row in table.rows for cell in row.cells}
    return [(name, about) for name, about in metric_definitions().items() if name in met]


def _audit(verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    if not verdicts:
        return None
    return {"about": ABOUT, "metrics": audit_metrics(verdicts), "lines": audit_lines(verdicts), "summary": summary(verdicts)}


def _exports(rows: Sequence[Export]) -> dict[str, Any] | None:
    return {"about": ABOUT_EXPORTS, "formats": export_formats(rows), "lines": export_lines(rows)} if rows else None


def _speeds(rows: Sequence[Speed]) -> dict[str, Any] | None:
    return {"about": ABOUT_SPEEDS, "summary": speed_summary(rows), "topics": speed_topics(rows)} if rows else None
