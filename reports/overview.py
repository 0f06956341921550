"""The overview: what the records say over all toys. Gathered here once; page, Markdown and summary only show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from touchneedle.benchmark.export_rows import Export
from touchneedle.reports.board_overview import BoardOverview, board_overview
from touchneedle.reports.boards import build_boards
from touchneedle.reports.changes import Changes, changes_since
from touchneedle.reports.conclusions import Conclusion, conclude
from touchneedle.reports.learning_curves import LearningCurve, learning_curves
from touchneedle.reports.sections import Section


@dataclass(frozen=True)
class Overview:
    """Everything that is said over all toys."""

    boards: tuple[BoardOverview, ...]
    conclusions: tuple[Conclusion, ...]
    curves: tuple[LearningCurve, ...] = ()
    changes: Changes | None = None


def build_overview(
    sections: Sequence[Section], exports: Sequence[Export] = (), against: Path | None = None, toy_anchors: Sequence[str] = ()
) -> Overview:
    """The overview of a report's sections, with what changed since the records in ``against``.

    ``toy_anchors`` are the page's names for the sections, ``toy-1`` and so on unless said.
    """
    boards = tuple(board_overview(index, board) for index, board in enumerate(build_boards(sections), start=1))
    return Overview(
        boards=boards,
        conclusions=tuple(_linked(one, toy_anchors) for one in conclude(boards, sections, exports)),
        curves=tuple(learning_curves(sections)),
        changes=changes_since(sections, against) if against else None,
    )


def _linked(conclusion: Conclusion, toy_anchors: Sequence[str]) -> Conclusion:
    names = {f"toy-{number}": anchor for number, anchor in enumerate(toy_anchors, start=1)}
    return replace(conclusion, evidence=tuple((text, names.get(anchor, anchor)) for text, anchor in conclusion.evidence))
