"""Which estimator leaves the benchmark as what, as `touchneedle exports` found it: one line for each, one column for each format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from touchneedle.benchmark.export_rows import Export

ABOUT_EXPORTS = (
    "Every estimator deploys as weights with its configuration (safetensors), from which Touchneedle rebuilds it. As a graph it needs "
    "no Touchneedle: .pt2 for torch, ONNX (value, and value with gradient) for C++. A size says that the answers came out again after "
    "loading; where there is none, why not."
)


@dataclass(frozen=True)
class ExportCell:
    """One estimator in one format: text for a reader, and whether it exports."""

    text: str
    exports: bool


@dataclass(frozen=True)
class ExportLine:
    """One estimator in all formats."""

    estimator: str
    cells: tuple[ExportCell, ...]


def export_formats(rows: Sequence[Export]) -> list[str]:
    """The formats that were tried, .pt2 first."""
    return [name for name in ("pt2", "onnx") if any(row.format == name for row in rows)]


def export_lines(rows: Sequence[Export]) -> list[ExportLine]:
    """One line per estimator, by name."""
    found: dict[tuple[str, str], Export] = {(row.estimator, row.format): row for row in rows}
    formats = export_formats(rows)
    names = sorted({row.estimator for row in rows})
    return [ExportLine(name, tuple(_cell(found.get((name, each))) for each in formats)) for name in names]


def _cell(row: Export | None) -> ExportCell:
    if row is None:
        return ExportCell("not tried", exports=False)
    return ExportCell(f"{row.size / 1000:,.0f} kB", exports=True) if row.size else ExportCell(f"no: {row.reason}", exports=False)
