"""Lines as short SVG paths: points that no reader could see are dropped, and what is left is written in steps of a tenth of a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
# Pixels; a line is drawn at least 1 wide.
TOLERANCE = 0.25


def outline(points: Sequence[Point], tolerance: float = TOLERANCE) -> str:
    """``M10.5 82l10.4-7.5 ..`` through the points (two or more) or, within ``tolerance`` pixels, past them."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in thinned(points, tolerance)]
    steps = [(x - a, y - b) for (a, b), (x, y) in pairwise(tenths)]
    return "M" + _joined(tenths[:1]) + "l" + _joined(steps)


def thinned(points: Sequence[Point], tolerance: float) -> list[Point]:
    """A part of the points, the first and the last among them, from whose line none of the others is further away than ``tolerance``.

    The furthest point from the line between the ends is kept, and each half treated likewise (Douglas, Peucker 1973,
    doi:10.3138/FM57-6770-U75U-7727).
    """
    kept = {0, len(points) - 1}
    open_ends = [(0, len(points) - 1)]
    while open_ends:
        first, last = open_ends.pop()
        away = [_distance(points[k], points[first], points[last]) for k in range(first + 1, last)]
        if away and max(away) > tolerance:
            middle = first + 1 + away.index(max(away))
            kept.add(middle)
            open_ends += [(first, middle), (middle, last)]
    return [points[k] for k in sorted(kept)]


def _distance(point: Point, start: Point, end: Point) -> float:
    """From a point to the line between two others."""
    x, y = point[0] - start[0], point[1] - start[1]
    along, across = end[0] - start[0], end[1] - start[1]
    squared = along * along + across * across
    share = min(1.0, max(0.0, (x * along + y * across) / squared)) if squared else 0.0
    return math.hypot(x - share * along, y - share * across)


def _joined(tenths: Sequence[tuple[int, int]]) -> str:
    """Numbers with a space between them, unless a minus sign tells them apart."""
    texts = [f"{number / 10:g}" for pair in tenths for number in pair]
    return "".join(text if k == 0 or text[0] == "-" else f" {text}" for k, text in enumerate(texts))
