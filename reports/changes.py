"""``touchneedle report --against OLD``: what changed beyond its errors since another folder of records.

Rows are matched by everything but the versions of the estimator and of its distribution; another version of a toy is another row.
Numbers are compared as `differences` does: paired by seed where both have the seeds, which are then the same events. With M numbers
compared, erfc(2 / sqrt(2)) M = 4.6 % of them lie beyond two sigma by chance; *certain* are those that Holm's correction leaves at 5 %.
Costs belong to the machine and are not compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.differences import SIGMAS, difference, worsening
from touchneedle.reports.numbers import format_cell
from touchneedle.reports.pairwise import LEVEL, holm
from touchneedle.reports.ranking import HUGE, place
from touchneedle.reports.rows import Row, canonical, read_results
from touchneedle.reports.sections import Section, build_sections


@dataclass(frozen=True)
class Change:
    """A number, or a gate's state, that is no longer what it was.

    Attributes:
        sigma: significance with the sign of new - old; None where states, missing numbers or limits are concerned.
        verdict: ``better``, ``worse``, or empty where neither is clear.
        certain: whether it remains after the correction for all numbers compared.
    """

    toy: str
    label: str
    budget: str
    design: str
    metric: str
    where: str
    old: str
    new: str
    sigma: float | None
    verdict: str = ""
    certain: bool = False


@dataclass(frozen=True)
class Changes:
    """What changed against another results folder.

    Attributes:
        against: name of the folder.
        compared: numbers that both have.
        expected: how many of them lie beyond two sigma by chance.
        appeared, vanished: rows that only the new, only the old folder has.
    """

    against: str
    compared: int
    changes: tuple[Change, ...]
    appeared: tuple[str, ...]
    vanished: tuple[str, ...]

    @property
    def expected(self) -> float:
        """Numbers expected beyond two sigma if nothing changed."""
        return self.compared * math.erfc(SIGMAS / math.sqrt(2))

    @property
    def summary(self) -> str:
        """The counts in one sentence."""
        beyond = [change for change in self.changes if change.sigma is not None]
        certain = sum(change.certain for change in beyond)
        return (
            f"Against {self.against}: {self.compared} numbers compared; {len(beyond)} changed by more than {SIGMAS:.0f} sigma, "
            f"{self.expected:.1f} expected by chance; {certain} remain after the correction for all of them. "
            f"{len(self.appeared)} rows are new, {len(self.vanished)} vanished."
        )


def changes_since(sections: Sequence[Section], old: Path) -> Changes:
    """Compare the rows of sections with those of another results folder.

    Raises:
        InputError: if it is no folder or holds no record.
    """
    before, now = _shown(build_sections(read_results(old))), _shown(sections)
    pairs = [pair for key in sorted(now) if key in before for pair in _cells(before[key], now[key])]
    gaps = [None if one.family == "gates" else difference(one, other) for _, one, other in pairs]
    sigmas = [gap.sigma for gap in gaps if gap is not None]
    certain = iter(holm(2 * norm.sf(np.abs(sigmas))) < LEVEL)
    changed = []
    for (row, one, other), gap in zip(pairs, gaps, strict=True):
        if gap is not None:
            remains = bool(next(certain))
            if abs(gap.sigma) > SIGMAS:
                changed.append(_change(row, one, other, gap.sigma, remains))
        elif _kind(one) != _kind(other):
            changed.append(_change(row, one, other, None, False))
    return Changes(
        against=str(old),
        compared=len(sigmas),
        changes=tuple(sorted(changed, key=lambda change: -abs(change.sigma) if change.sigma is not None else -math.inf)),
        appeared=tuple(_title(now[key][0]) for key in sorted(now) if key not in before),
        vanished=tuple(_title(before[key][0]) for key in sorted(before) if key not in now),
    )


_Shown = tuple[Row, dict[tuple[str, str], Cell]]


def _shown(sections: Sequence[Section]) -> dict[str, _Shown]:
    """Rows by identity with the cells that may be shown."""
    return {
        _identity(row): (row, {(cell.metric, place(cell)): cell for cell in row.cells if not table.why_withheld(cell)})
        for section in sections
        for table in section.tables
        for row in table.rows
    }


def _cells(old: _Shown, new: _Shown) -> Iterator[tuple[Row, Cell, Cell]]:
    row, others = new
    for where, cell in old[1].items():
        if where in others and cell.family != "cost":
            yield row, cell, others[where]


def _change(row: Row, old: Cell, new: Cell, sigma: float | None, certain: bool) -> Change:
    return Change(
        toy=row.toy[0],
        label=row.label,
        budget=row.budget,
        design=row.design,
        metric=new.metric,
        where=place(new),
        old=old.state or format_cell(old),
        new=new.state or format_cell(new),
        sigma=sigma,
        verdict=_verdict(old, new),
        certain=certain,
    )


def _verdict(old: Cell, new: Cell) -> str:
    found = worsening(old, new)
    if found is None or abs(found.sigma) <= SIGMAS:
        return ""
    return "worse" if found.sigma > 0 else "better"


def _kind(cell: Cell) -> str:
    """What must not change silently where there is no difference to take: a gate's state; a number, a limit, infinity or none."""
    if cell.family == "gates":
        return cell.state
    if cell.value is None or not abs(cell.value) < HUGE:
        return format_cell(cell)
    return "limit" if cell.all_censored else "number"


def _identity(row: Row) -> str:
    parts = json.loads(row.key)
    parts["estimator"] = row.estimator
    return canonical(parts)


def _title(row: Row) -> str:
    version = f" (version {row.toy[1]})" if row.toy[1] else ""
    return f"{row.toy[0]}{version} {row.label}, {row.budget} {row.n_train:,}, {row.design}"
