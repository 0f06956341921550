"""The overview as plain texts: for the template of the page, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from touchneedle.reports.board_overview import ABOUT_RANKS, BoardOverview, Tally, unranked_lines
from touchneedle.reports.changes import Changes
from touchneedle.reports.family_ranks import FamilyRanking, Rank
from touchneedle.reports.learning_curves import LearningCurve
from touchneedle.reports.learning_figure import draw_curves
from touchneedle.reports.numbers import format_cell, format_number
from touchneedle.reports.overview import Overview
from touchneedle.reports.overview_figures import draw_pareto, draw_profiles, draw_ranks
from touchneedle.reports.picture import Picture
from touchneedle.reports.text_tables import escape, table_row

ABOUT_CURVES = (
    "The primary number of a toy at each training budget, seeds averaged; passes over the events may differ, nothing else does. "
    "Slope: of its logarithmic badness against the logarithm of the number of events, with its standard error; negative where more "
    "events help: at the pace of statistics -1 for n* and KL, -0.5 for errors of the log-ratio; 0 where nothing improves."
)
MAX_CHANGES = 100
FIGURES = (("Ranks", draw_ranks), ("Performance profiles", draw_profiles), ("Cost against quality", draw_pareto))
CHANGE_TITLES = ("toy", "estimator", "budget, design", "number", "old", "new")


def overview_view(overview: Overview) -> dict[str, Any]:
    """What ``overview.html`` shows; texts only, except for our own figures."""
    return {
        "about": ABOUT_RANKS,
        "about_curves": ABOUT_CURVES,
        "change_titles": CHANGE_TITLES,
        "boards": [_board(one) for one in overview.boards if len(one.board.toys) > 1],
        "conclusions": [
            {"question": one.question, "told": one.told, "text": one.text, "evidence": [{"text": t, "anchor": a} for t, a in one.evidence]}
            for one in overview.conclusions
        ],
        "changes": None if overview.changes is None else _changes(overview.changes),
        "curve_titles": ["toy", "estimator", "design", "number", *(f"{n:,} events" for n in _budgets(overview.curves)), "slope"],
        "curves": [_curve(curve, _budgets(overview.curves)) for curve in overview.curves],
        "curve_figure": _figure("Learning curves", draw_curves(overview.curves)),
    }


def overview_markdown(overview: Overview) -> list[str]:
    """Lines of the section ``## Overview``; none without anything to compare."""
    view = overview_view(overview)
    if not (view["conclusions"] or view["changes"]):
        return []
    lines = ["## Overview", ""]
    lines += _changes_markdown(view["changes"]) if view["changes"] else []
    lines += ["### Which method when", ""] if view["conclusions"] else []
    lines += [f"- **{escape(one['question'])}** {escape(one['text'])}" for one in view["conclusions"]]
    lines += ["", "### How methods rank", "", escape(view["about"]), ""] if view["boards"] else [""]
    for board in view["boards"]:
        lines += _board_markdown(board)
    return [*lines, *_curves_markdown(view)]


def rank_text(rank: Rank | None) -> str:
    """``2.1 +- 0.3, 1 to 3, ab``: score, interval of the rank, groups; ``n/a`` where there is none."""
    if rank is None:
        return "n/a"
    return f"{format_number(rank.score, rank.stderr)}, {interval_text(rank)}, {rank.group}"


def format_sigma(sigma: float) -> str:
    """A significance with its sign and one decimal."""
    return f"{sigma:+.1f}" if abs(sigma) < 1000 else f"{sigma:+.0e}"


def interval_text(rank: Rank) -> str:
    """``1 to 3``, or ``2`` where nothing else is possible."""
    return f"{rank.low}" if rank.low == rank.high else f"{rank.low} to {rank.high}"


def _board(one: BoardOverview) -> dict[str, Any]:
    board = one.board
    names = sorted({name for name, _, _ in board.toys})
    return {
        "id": one.anchor,
        "title": f"{board.title}: {len(names)} toys, {len(board.contestants)} contestants, {board.runs} runs",
        "families": [ranking.family for ranking in one.rankings],
        "lines": [_line(one, key.key, key.label, ranks) for key, ranks in one.ranked()],
        "figures": [_figure(title, draw(one)) for title, draw in FIGURES],
        "notes": [board.seeds, *(_about(r) for r in one.rankings), *(text for r in one.rankings for text in unranked_lines(r))],
    }


def _budgets(curves: Sequence[LearningCurve]) -> list[int]:
    return sorted({point.n_train for curve in curves for point in curve.points})


def _curve(curve: LearningCurve, budgets: Sequence[int]) -> dict[str, Any]:
    texts = {point.n_train: format_cell(point.cell) for point in curve.points}
    slope = "n/a" if curve.slope is None else format_number(curve.slope, curve.stderr)
    return {
        "toy": curve.toy,
        "label": curve.label,
        "design": curve.design,
        "number": curve.title,
        "cells": [texts.get(n, "") for n in budgets],
        "slope": slope,
    }


def _curves_markdown(view: dict[str, Any]) -> list[str]:
    if not view["curves"]:
        return []
    lines = ["### Learning curves", "", escape(ABOUT_CURVES), "", table_row(view["curve_titles"]), "|" + "---|" * len(view["curve_titles"])]
    lines += [table_row([one["toy"], one["label"], one["design"], one["number"], *one["cells"], one["slope"]]) for one in view["curves"]]
    return [*lines, ""]


def _changes(changes: Changes) -> dict[str, Any]:
    shown = changes.changes[:MAX_CHANGES]
    return {
        "summary": changes.summary,
        "lines": [
            {
                "texts": [one.toy, one.label, f"{one.budget}, {one.design}", f"{one.metric} {one.where}".strip(), one.old, one.new],
                "sigma": "" if one.sigma is None else format_sigma(one.sigma),
                "sort": "" if one.sigma is None else repr(one.sigma),
                "verdict": ", ".join(filter(None, (one.verdict, "certain" if one.certain else ""))),
            }
            for one in shown
        ],
        "more": len(changes.changes) - len(shown),
        "rows": [f"new: {title}" for title in changes.appeared] + [f"vanished: {title}" for title in changes.vanished],
    }


def _figure(title: str, picture: Picture) -> dict[str, Any]:
    return {"title": title, "svg": Markup(picture.svg), "caption": picture.caption, "notes": picture.notes}


def _line(one: BoardOverview, key: str, label: str, ranks: dict[str, Rank]) -> dict[str, Any]:
    return {
        "label": label,
        "cells": [_cell(ranks.get(ranking.family)) for ranking in one.rankings],
        "gates": _gates(one.tallies[key]),
        "runs": _runs(one.tallies[key]),
    }


def _cell(rank: Rank | None) -> dict[str, str]:
    if rank is None:
        return {"text": "n/a", "interval": "", "group": "", "score": "", "sort": ""}
    score = format_number(rank.score, rank.stderr)
    return {"text": rank_text(rank), "interval": interval_text(rank), "group": rank.group, "score": score, "sort": repr(rank.score)}


def _gates(tally: Tally) -> str:
    return ", ".join(f"{count} {state}" for state, count in tally.gates.items() if count) or "n/a"


def _runs(tally: Tally) -> str:
    return f"{tally.runs}" + (f" ({tally.failed} failed)" if tally.failed else "")


def _about(ranking: FamilyRanking) -> str:
    toys = ", ".join(sorted({name for name, _, _ in ranking.toys})) or "no toy"
    never = [metric for metric in ranking.lacking if metric not in ranking.metrics]
    partly = [metric for metric in ranking.lacking if metric in ranking.metrics]
    lacking = f"; not by {_short(never)}, which not everybody has" if never else ""
    lacking += f"; only where everybody has them: {_short(partly)}" if partly else ""
    return f"{ranking.family}: judged by {_short(ranking.metrics)} on {toys}{lacking}"


def _short(metrics: Iterable[str]) -> str:
    return ", ".join(metric.partition("/")[2] for metric in metrics) or "nothing"


def _board_markdown(board: dict[str, Any]) -> list[str]:
    titles = ["contestant", *(f"{family}: score, rank, group" for family in board["families"]), "gates", "runs"]
    lines = [f"#### {escape(board['title'])}", "", table_row(titles), "|" + "---|" * len(titles)]
    lines += [table_row([line["label"], *(cell["text"] for cell in line["cells"]), line["gates"], line["runs"]]) for line in board["lines"]]
    return [*lines, "", *(f"- {escape(note)}" for note in board["notes"]), ""]


def _changes_markdown(changes: dict[str, Any]) -> list[str]:
    titles = [*CHANGE_TITLES, "sigma", "verdict"]
    lines = ["### What changed", "", escape(changes["summary"]), ""]
    if changes["lines"]:
        lines += [table_row(titles), "|" + "---|" * len(titles)]
        lines += [table_row([*line["texts"], line["sigma"], line["verdict"]]) for line in changes["lines"]] + [""]
    lines += [f"- {changes['more']} further changes: summary.json"] if changes["more"] else []
    lines += [f"- {escape(text)}" for text in changes["rows"]]
    return [*lines, ""]
