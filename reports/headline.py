"""The headline of the published board: its ranked methods, how they rank in fits, and up to how many events each is safe, toy by toy.

``python -m touchneedle.reports.headline`` rewrites the table in the README of a checkout from ``results/reference``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from touchneedle.conf.errors import InputError
from touchneedle.reports.averages import averages
from touchneedle.reports.board_overview import BoardOverview
from touchneedle.reports.boards import Contestant, ToyKey
from touchneedle.reports.family_ranks import FamilyRanking, Rank
from touchneedle.reports.numbers import format_number
from touchneedle.reports.overview import build_overview
from touchneedle.reports.overview_text import interval_text
from touchneedle.reports.rows import Results, Row, read_results
from touchneedle.reports.sections import Section, build_sections
from touchneedle.reports.text_tables import headline_text, table_row

REFERENCE = Path("results/reference")
_MARKED = re.compile(r"(<!-- headline.*?-->\n).*?(<!-- /headline -->)", re.DOTALL)


def headline_markdown(results: Results) -> str:
    """The table, a line for each board that ranks fits; raises `InputError` if none does."""
    sections = build_sections(results)
    boards = build_overview(sections).boards
    ranked = [(board, fits) for board in boards for fits in board.rankings if fits.family == "fit" and fits.ranks]
    if not ranked:
        raise InputError("headline: expected records that rank fits of two methods or more; there are none (run: make reference)")
    toys = sorted({toy for _, fits in ranked for toy in fits.toys})
    titles = ["design", "method", "seeds", "fit: score, rank, group", *(f"n* {name}" for name, _, _ in toys), "train / s"]
    lines = [table_row(titles), "|" + "---|" * len(titles)]
    for board, fits in ranked:
        names = _names([rank.contestant for rank in fits.ranks])
        lines += [table_row(_line(board, rank, names, toys, sections)) for rank in fits.ranks]
    return "\n".join([*lines, "", *(_about(board, fits) for board, fits in ranked), ""])


def with_headline(readme: str, results: Results) -> str:
    """The text with the table between its two ``headline`` comments; raises `InputError` without them."""
    if not _MARKED.search(readme):
        raise InputError("README: expected the comments <!-- headline ... --> and <!-- /headline -->; they are missing")
    return _MARKED.sub(lambda found: f"{found[1]}\n{headline_markdown(results)}\n{found[2]}", readme)


def _names(contestants: Sequence[Contestant]) -> Mapping[str, str]:
    """Names by key: the estimator alone where that is enough."""
    names = [one.estimator for one in contestants]
    return {one.key: one.estimator if names.count(one.estimator) == 1 else one.label for one in contestants}


def _line(one: BoardOverview, rank: Rank, names: Mapping[str, str], toys: Sequence[ToyKey], sections: Sequence[Section]) -> Iterator[str]:
    board, key = one.board, rank.contestant.key
    entries = [board.entries.get((key, toy)) for toy in toys]
    yield board.design
    yield names[key]
    yield str(max(len(entry.seeds) for entry in entries if entry))
    yield f"{format_number(rank.score, rank.stderr)}, {interval_text(rank)}, {rank.group}"
    yield from (_text(entry.row if entry else None, "n_star", sections) for entry in entries)
    yield _seconds(one, rank.contestant)


def _seconds(one: BoardOverview, contestant: Contestant) -> str:
    """Geometric mean over the toys of the board."""
    found = [mean for mean in averages(one.board, "cost/train_seconds", log=True) if mean.label == contestant.label]
    return format_number(found[0].value, found[0].stderr) if found else "n/a"


def _text(row: Row | None, column_key: str, sections: Sequence[Section]) -> str:
    """The number that the table of a toy shows for a row."""
    for table in (table for section in sections for table in section.tables):
        if row is not None and (row.key, column_key) in table.cells:
            (column,) = [column for column in table.columns if column.key == column_key]
            return headline_text(table, row, column)
    return "n/a"


def _about(one: BoardOverview, fits: FamilyRanking) -> str:
    judged = ", ".join(metric.partition("/")[2] for metric in fits.metrics)
    return f"Design {one.board.design}: {one.board.n_train:,} training events, fits judged by {judged}; {one.board.seeds}."


def rewrite(readme: Path, results: Path = REFERENCE) -> None:
    """Bring the table of a README up to date."""
    readme.write_text(with_headline(readme.read_text(encoding="utf-8"), read_results(results)), encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path("README.md"))
