"""Speeds in the README: the targets, and whether they are met.

``python -m touchneedle.reports.speed_headline`` rewrites the table in the README of a checkout from what ``make bench`` measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from touchneedle.conf.errors import InputError
from touchneedle.reports.speed_rows import Speed, read_speeds, speed_files
from touchneedle.reports.speeds import SPEED_TITLES, speed_lines, speed_summary
from touchneedle.reports.text_tables import escape, table_row

REFERENCE = Path("results/reference")
_MARKED = re.compile(r"(<!-- speeds.*?-->\n).*?(<!-- /speeds -->)", re.DOTALL)


def speed_markdown(rows: Sequence[Speed]) -> str:
    """A line for each number that has a target, and the machines."""
    lines = speed_lines([row for row in rows if row.wanted is not None])
    if not lines:
        return "Nothing has been measured yet.\n"
    machines = sorted({escape(line.machine) for line in lines})
    table = [table_row(SPEED_TITLES[:-1]), "|" + "---|" * (len(SPEED_TITLES) - 1), *(table_row(line.cells[:-1]) for line in lines)]
    return "\n".join([*table, "", f"{speed_summary(rows)} Measured on: {' / '.join(machines)}.", ""])


def with_speeds(readme: str, rows: Sequence[Speed]) -> str:
    """The text with the table between its two ``speeds`` comments; raises `InputError` without them."""
    if not _MARKED.search(readme):
        raise InputError("README: expected the comments <!-- speeds ... --> and <!-- /speeds -->; they are missing")
    return _MARKED.sub(lambda found: f"{found[1]}\n{speed_markdown(rows)}\n{found[2]}", readme)


def reference_speeds(results: Path = REFERENCE) -> list[Speed]:
    """What was measured on a CPU, which everyone can repeat; nothing if there is no such table."""
    return [row for path in speed_files(results) if path.stem == "cpu" for row in read_speeds(path)]


if __name__ == "__main__":
    file = Path("README.md")
    file.write_text(with_speeds(file.read_text(encoding="utf-8"), reference_speeds()), encoding="utf-8")
