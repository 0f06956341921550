"""Who leads, and who cannot be told from the leader: from a ranking over toys, or from one table of one toy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.family_ranks import FamilyRanking
from touchneedle.reports.numbers import format_cell, format_number
from touchneedle.reports.ranking import distinguishable, standings
from touchneedle.reports.rows import Row
from touchneedle.reports.sections import Column, Section, Table, select_cell

SHOWN = 4


@dataclass(frozen=True)
class Leader:
    """The best of several, with its number, those who cannot be told from it, and those who can.

    Attributes:
        measure: what the number is, such as ``expected rank in fit``.
    """

    name: str
    number: str
    measure: str
    tied: tuple[str, ...]
    behind: tuple[str, ...]

    @property
    def told(self) -> bool:
        """Whether somebody can be told from the leader."""
        return bool(self.behind)

    @property
    def text(self) -> str:
        """One sentence, without its full stop."""
        if not self.tied and not self.behind:
            return f"only {self.name} has a number ({self.measure} {self.number})"
        if not self.behind:
            return f"{self.name} comes first ({self.measure} {self.number}), but nobody can be told from it: {listed(self.tied)}"
        if not self.tied:
            return f"{self.name} leads ({self.measure} {self.number}), told from all others: {listed(self.behind)}"
        return (
            f"{self.name} leads ({self.measure} {self.number}); {listed(self.tied)} cannot be told from it, "
            f"{listed(self.behind)} can, and {'is' if len(self.behind) == 1 else 'are'} worse"
        )


def leader_of_ranking(ranking: FamilyRanking) -> Leader | None:
    """Leader of a family over toys; None where nobody is ranked."""
    if not ranking.ranks:
        return None
    first, *others = ranking.ranks
    apart = {pair.worse for pair in ranking.differences if pair.better == 0 and pair.told_apart}
    return Leader(
        name=first.contestant.label,
        number=f"{format_number(first.score, first.stderr)} of {len(ranking.ranks)}",
        measure=f"expected rank in {ranking.family}",
        tied=tuple(rank.contestant.label for place, rank in enumerate(others, start=1) if place not in apart),
        behind=tuple(rank.contestant.label for place, rank in enumerate(others, start=1) if place in apart),
    )


def leader_of_table(section: Section, table: Table, design: str, column: Column | None = None) -> Leader | None:
    """Leader among the entries of one design, by the table's primary number or another column; None without numbers."""
    column = column or next((one for one in table.columns if one.metric == table.primary), None)
    rows = [row for row in table.rows if row.role == "entry" and row.design == design and row.track == "default"]
    if column is None or not rows:
        return None
    cells = {row.key: _shown(section, table, row, column) for row in rows}
    ranked = [standing.row for standing in standings(rows, [cells[row.key] for row in rows]) if standing.rank]
    if not ranked:
        return None
    best = cells[ranked[0].key]
    apart = [row for row in ranked[1:] if _apart(best, cells[row.key])]
    number = format_cell(best) if best is not None else "n/a"
    tied = tuple(row.label for row in ranked[1:] if row not in apart)
    return Leader(ranked[0].label, number, column.title, tied, tuple(row.label for row in apart))


def listed(names: Sequence[str], limit: int = SHOWN) -> str:
    """Names as text; beyond ``limit`` only how many more."""
    if len(names) > limit + 1:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _apart(best: Cell | None, other: Cell | None) -> bool:
    return best is not None and other is not None and distinguishable(best, other)


def _shown(section: Section, table: Table, row: Row, column: Column) -> Cell | None:
    cell = table.cells.get((row.key, column.key)) or select_cell(row, column, section.parameter)
    return None if cell is None or table.why_withheld(cell) else cell
