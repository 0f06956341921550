"""A table of measured speeds on the terminal: ``python -m tests.performance.table FILE``."""

import sys
from pathlib import Path

from touchneedle.benchmark.tables import show
from touchneedle.reports.speed_rows import read_speeds
from touchneedle.reports.speeds import SPEED_TITLES, speed_lines, speed_summary


def main(file: Path) -> None:
    rows = read_speeds(file)
    show(SPEED_TITLES[:-1], [line.cells[:-1] for line in speed_lines(rows)])
    print(speed_summary(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
