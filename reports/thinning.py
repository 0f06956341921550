"""What the page leaves out, step by step, while it is too large; the CSV file always holds every number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from touchneedle.reports.sections import Section

# A run with its command, seeds and cost takes at least this much.
RUN_BYTES = 1_000
_ELSEWHERE = "to keep this page small; leaderboard.csv holds every number."


@dataclass(frozen=True)
class Thinning:
    """One step.

    Attributes:
        numbers: which numbers stand in the details: all, those at the nominal point, or none.
        runs: every run has a block of its own, not only failed ones.
        figures: rankings have figures.
        traceback: characters of a traceback that are kept.
        note: what the page says of it.
    """

    numbers: Literal["all", "nominal", "none"] = "all"
    runs: bool = True
    figures: bool = True
    traceback: int = 20_000
    note: str = ""


STEPS = (
    Thinning(),
    Thinning("nominal", note=f"Details are limited to the nominal point {_ELSEWHERE}"),
    Thinning("none", note=f"Details are left out {_ELSEWHERE}"),
    Thinning("none", runs=False, traceback=2_000, note=f"Details and good runs are left out {_ELSEWHERE}"),
    Thinning("none", runs=False, figures=False, traceback=300, note=f"Details, good runs and figures are left out {_ELSEWHERE}"),
)


def steps(sections: Sequence[Section], limit: int) -> Iterator[Thinning]:
    """The steps worth trying: those whose runs alone could fit into ``limit`` bytes."""
    runs = sum(len(row.runs) for section in sections for table in section.tables for row in table.rows)
    for step in STEPS:
        if not step.runs or runs * RUN_BYTES < limit:
            yield step
