"""How fast Touchneedle itself is: measured speeds by topic, each beside what it was measured against and what is wanted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchneedle.reports.numbers import format_number
from touchneedle.reports.speed_rows import Speed

SPEED_TITLES = ("topic", "what", "against", "measured", "wanted", "met", "machine")
ABOUT_SPEEDS = (
    "How fast Touchneedle itself is. A ratio is of two things measured in turns in one process, with its standard error over rounds; "
    "wanted is what this project set itself. Speeds are no part of any ranking. Measured by make bench and make bench-gpu."
)


@dataclass(frozen=True)
class SpeedLine:
    """One number as text for a reader.

    Attributes:
        verdict: ``met`` or ``missed``; empty without a target.
    """

    topic: str
    what: str
    against: str
    measured: str
    wanted: str
    verdict: str
    machine: str
    note: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a table with `SPEED_TITLES`."""
        return self.topic, self.what, self.against, self.measured, self.wanted, self.verdict, self.machine


def speed_lines(rows: Sequence[Speed]) -> list[SpeedLine]:
    """One line for each row, by topic; numbers with a target first."""
    return [_line(row) for row in sorted(rows, key=lambda row: (row.topic, row.wanted is None, row.what, row.against, _machine(row)))]


def speed_topics(rows: Sequence[Speed]) -> dict[str, list[SpeedLine]]:
    """The lines of each topic."""
    topics: dict[str, list[SpeedLine]] = {}
    for line in speed_lines(rows):
        topics.setdefault(line.topic, []).append(line)
    return topics


def speed_summary(rows: Sequence[Speed]) -> str:
    """How many targets are met."""
    targets = [row.met for row in rows if row.met is not None]
    return f"{sum(targets)} of {len(targets)} targets are met."


def _line(row: Speed) -> SpeedLine:
    measured = f"{format_number(row.value, row.standard_error)} {row.unit}"
    verdict = {True: "met", False: "missed", None: ""}[row.met]
    return SpeedLine(row.topic, row.what, row.against, measured, _wanted(row), verdict, _machine(row), row.note)


def _wanted(row: Speed) -> str:
    if row.wanted is None:
        return ""
    sign = "\N{GREATER-THAN OR EQUAL TO}" if row.better == "higher" else "\N{LESS-THAN OR EQUAL TO}"
    return f"{sign} {row.wanted:,g} {row.unit}"


def _machine(row: Speed) -> str:
    """The device alone, and what else is known by name: ``GPU X; threads 1; torch 2.13.0``."""
    return "; ".join(str(value) if name == "device" else f"{name} {value}" for name, value in row.machine.items())
