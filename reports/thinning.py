"""What the page leaves out, step by step, while it is too large; the CSV file always holds every number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from touchneedle.reports.sections import Section

# A run with its command, seeds and cost takes at least this much.
RUN_BYTES = 1_000
_ELSEWHERE = "left out to keep this page small; leaderboard.csv holds every number."


@dataclass(frozen=True)
class Thinning:
    """One step.

    Attributes:
        numbers: which numbers stand in the details: all, those at the nominal point, or none.
        runs: every run has a block of its own, not only failed ones.
        figures: how many figures a ranking has at most.
        hints: numbers of rankings show their seeds and reasons to a pointer; the comparison pairs seeds.
        traceback: characters of a traceback that are kept.
        note: what the page says of it.
    """

    numbers: Literal["all", "nominal", "none"] = "all"
    runs: bool = True
    figures: int = 100
    hints: bool = True
    traceback: int = 20_000
    note: str = ""


STEPS = (
    Thinning(),
    Thinning("nominal", note=f"Details beyond the nominal point are {_ELSEWHERE}"),
    Thinning("none", note=f"Details are {_ELSEWHERE}"),
    Thinning("none", runs=False, hints=False, traceback=2_000, note=f"Details, seeds and good runs are {_ELSEWHERE}"),
    Thinning("none", runs=False, figures=1, hints=False, traceback=300, note=f"Details, seeds, good runs, most figures are {_ELSEWHERE}"),
    Thinning("none", runs=False, figures=0, hints=False, traceback=300, note=f"Details, seeds, good runs and figures are {_ELSEWHERE}"),
)


def steps(sections: Sequence[Section], limit: int) -> Iterator[Thinning]:
    """The steps worth trying: those whose runs alone could fit into ``limit`` bytes."""
    runs = sum(len(row.runs) for section in sections for table in section.tables for row in table.rows)
    for step in STEPS:
        if not step.runs or runs * RUN_BYTES < limit:
            yield step
