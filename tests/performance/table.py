"""A table of measured speeds on the terminal: ``python -m tests.performance.table FILE``."""

import sys
from pathlib import Path

from touchneedle.benchmark.tables import show
from touchneedle.conf.errors import InputError
from touchneedle.reports.speed_rows import read_speeds
from touchneedle.reports.speeds import SPEED_TITLES, speed_lines, speed_summary


def main(file: Path) -> None:
    if not file.exists():
        sys.exit(f"{file}: expected measured speeds; got none: what needs a GPU (make bench-gpu) is skipped where torch finds none")
    try:
        rows = read_speeds(file)
    except InputError as error:
        sys.exit(str(error))
    show(SPEED_TITLES[:-1], [line.cells[:-1] for line in speed_lines(rows)])
    print(speed_summary(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
