"""Which estimator leaves the benchmark as what: rows beside the records of a results folder, ``<results>/exports/survey.json``.

That file is all that a report needs; `touchneedle.benchmark.exports` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from touchneedle.benchmark.records import write_atomically
from touchneedle.conf.errors import InputError

EXPORTS = Path("exports") / "survey.json"


class Export(BaseModel):
    """One estimator in one format.

    Attributes:
        toy: what it was briefly trained on.
        size: bytes of all its files; 0 where it does not export.
        seconds: that the export took.
        reason: why it does not export.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    estimator: str
    toy: str
    format: Literal["pt2", "onnx"]
    size: int
    seconds: float
    reason: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a table."""
        size = f"{self.size}" if self.size else ""
        return self.estimator, self.toy, self.format, "yes" if self.size else "no", size, f"{self.seconds:.1f}", self.reason


_ROWS = TypeAdapter(list[Export])


def write_exports(folder: Path, rows: Sequence[Export]) -> Path:
    """Keep rows in a results folder, in place of older ones of the same estimator and format."""
    path = Path(folder) / EXPORTS
    kept = {(row.estimator, row.format): row for row in [*read_exports(folder), *rows]}
    write_atomically(path, json.dumps(_ROWS.dump_python([kept[key] for key in sorted(kept)], mode="json"), indent=1) + "\n")
    return path


def read_exports(folder: Path) -> list[Export]:
    """The rows of a results folder, none if it holds no survey; raises `InputError` for a corrupt file."""
    path = Path(folder) / EXPORTS
    if not path.is_file():
        return []
    try:
        return _ROWS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"exports {path}: expected a survey of this version (run touchneedle exports again)") from error
