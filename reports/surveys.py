"""What lies beside the records of a results folder and has tables of its own: an audit, a survey of exports, measured speeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from touchneedle.benchmark.export_rows import EXPORTS, Export, read_exports
from touchneedle.benchmark.verdicts import AUDIT, Verdict, read_verdicts
from touchneedle.conf.errors import InputError
from touchneedle.reports.rows import Problem, Results
from touchneedle.reports.speed_rows import Speed, read_speeds, speed_files

R = TypeVar("R")


@dataclass(frozen=True)
class Surveys:
    """Rows of each kind; none of what is not there."""

    verdicts: list[Verdict] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)


NOTHING = Surveys()


def read_surveys(folder: Path, found: Results) -> Surveys:
    """All that lies beside the records; a file that cannot be read is one more of their problems."""
    speeds = [row for path in speed_files(folder) for row in _rows(read_speeds, path, path.relative_to(folder), found)]
    return Surveys(_rows(read_verdicts, folder, AUDIT, found), _rows(read_exports, folder, EXPORTS, found), speeds)


def _rows(read: Callable[[Path], list[R]], path: Path, file: Path, found: Results) -> list[R]:
    try:
        return read(path)
    except InputError as error:
        found.problems.append(Problem(file.as_posix(), str(error)))
        return []
