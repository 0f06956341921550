"""Lines of figures: what is left out cannot be seen, and what is written is where it should be."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchneedle.reports.outline import TOLERANCE, Point, outline, thinned

POINTS = st.lists(st.tuples(*[st.floats(-500, 500, allow_nan=False)] * 2), min_size=2, max_size=40)


def read_outline(path: str) -> list[Point]:
    """Points of ``M x y l dx dy ..``."""
    numbers = np.array([float(text) for text in re.findall(r"-?[\d.]+", path)]).reshape(-1, 2)
    return [(float(x), float(y)) for x, y in numbers.cumsum(0)]


def distance(point: Point, line: list[Point]) -> float:
    """From a point to a line of several pieces: to the closest end or, where its foot lies inside of a piece, along the normal."""
    p, ends = complex(*point), [complex(*end) for end in line]
    found = [abs(p - end) for end in ends]
    for a, b in pairwise(ends):
        foot = (p - a) * (b - a).conjugate()
        if 0 <= foot.real <= abs(b - a) ** 2 > 0:
            found.append(abs(foot.imag) / abs(b - a))
    return min(found)


@given(points=POINTS)
def test_nothing_that_is_left_out_is_further_away_than_the_tolerance(points: list[Point]) -> None:
    kept = thinned(points, TOLERANCE)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert all(distance(point, kept) <= TOLERANCE + 1e-6 for point in points)


@given(points=POINTS)
def test_the_path_goes_through_the_points_that_are_kept(points: list[Point]) -> None:
    kept, read = thinned(points, TOLERANCE), read_outline(outline(points))
    assert len(read) == len(kept)
    assert np.array(read) == pytest.approx(np.array(kept), abs=0.051)


def test_a_straight_line_needs_its_ends_only_and_a_corner_stays() -> None:
    assert outline([(x, 2 * x) for x in range(50)]) == "M0 0l49 98"
    assert outline([(0, 0), (10, 0), (10, 10), (0, 10)]) == "M0 0l10 0 0 10-10 0"


def test_a_circle_stays_one() -> None:
    circle = [(100 * math.cos(t), 100 * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 400)]
    kept = thinned(circle, TOLERANCE)
    assert len(kept) < 100
    assert all(distance(point, kept) <= TOLERANCE + 1e-3 for point in circle[::7])
