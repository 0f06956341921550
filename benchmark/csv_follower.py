"""The losses of each epoch as a table of comma-separated values that grows while a training runs."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any


class CsvFollower:
    """Writes ``metrics.csv`` as Lightning's CSVLogger does: a row per epoch (``step``), a column per loss, empty where a stage has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        self.rows.append({**metrics, "step": step})

    def save(self) -> None:
        """Write all rows; whoever reads sees the old table or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted({name for row in self.rows for name in row}))
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)

    def finalize(self, status: str) -> None:
        """Nothing is left to do: each epoch was saved."""
