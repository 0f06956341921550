"""The training curve of a run as a small inline SVG that follows the page's colours."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow

from touchneedle.reports.figures import Series, read_curves
from touchneedle.reports.numbers import format_number
from touchneedle.reports.outline import outline

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 360, 120, 52, 18
# Pixels: losses jitter, and every run has a picture of its own.
_TOLERANCE = 0.6


def loss_picture(path: Path) -> str:
    """Training (dashed) and validation loss by epoch; empty if the run has none or its curves are unreadable.

    Unreadable curves are reported by the figure of the table, so they are not reported again here.
    """
    try:
        curves = read_curves(path) if path.is_file() else {}
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException):
        return ""
    lines = {name: _finite(curves.get(("loss", name), Series())) for name in ("train", "validation")}
    points = [point for line in lines.values() for point in line]
    if len(points) < 3:
        return ""
    return _svg(lines, points)


def _svg(lines: dict[str, list[tuple[float, float]]], points: list[tuple[float, float]]) -> str:
    last = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    paths = {name: outline([_place(x, y, last, low, high) for x, y in line], _TOLERANCE) for name, line in lines.items() if len(line) > 1}
    drawn = "".join(f'<path class="{name}" d="{path}"/>' for name, path in paths.items())
    return (
        f'<svg class="loss" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Training and validation loss by epoch">{drawn}'
        f'<text x="0" y="10">{format_number(high)}</text><text x="0" y="{_HEIGHT - _BOTTOM}">{format_number(low)}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">loss: validation, training dashed; to epoch {last:g}</text></svg>'
    )


def _place(x: float, y: float, last: float, low: float, high: float) -> tuple[float, float]:
    across = _LEFT + (_WIDTH - _LEFT - 4) * x / (last or 1.0)
    return across, 6 + (_HEIGHT - _BOTTOM - 10) * (high - y) / ((high - low) or 1.0)


def _finite(series: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
