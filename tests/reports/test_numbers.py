"""Numbers as text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from touchneedle.reports.aggregate import average
from touchneedle.reports.numbers import format_cell, format_limit, format_number


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.3127, 0.0421, "0.31 ± 0.04"),
        (0.3127, 0.0142, "0.313 ± 0.014"),
        (12345.6, 432.1, "12,300 ± 400"),
        (-0.00049, 0.0004, "-0.0005 ± 0.0004"),
        (-0.00001, 0.0004, "0.0000 ± 0.0004"),
        (1.234e-6, 3.1e-7, "(1.2 ± 0.3)e-06"),
        (3.0, 40.0, "0 ± 40"),
        (1.0, 0.0, "1 ± 0"),
        (0.0, 0.0, "0 ± 0"),
        (0.999, 0.0999, "1.00 ± 0.10"),
        (12.34, None, "12.3"),
        (12345.6, None, "12,300"),
        (7.0, None, "7"),
        (1e9, None, "1.00e+09"),
        (math.inf, None, "∞"),
        (-math.inf, 1.0, "-∞"),
        (math.nan, None, "n/a"),
        (2.0, math.inf, "2"),
    ],
)
def test_value_and_error_have_matching_digits(value: float, stderr: float | None, text: str) -> None:
    assert format_number(value, stderr) == text


@pytest.mark.parametrize(("value", "text"), [(1e6, "1e6"), (1e4, "1e4"), (1000.0, "1,000"), (123456.0, "123,000"), (math.inf, "∞")])
def test_limits(value: float, text: str) -> None:
    assert format_limit(value) == text


def test_cells(make: Any) -> None:
    above = make.metric("fit/n_star", 1e6, 0.0, censored="above")
    below = make.metric("fit/n_star", 10.0, 0.0, censored="below")
    number = make.metric("fit/n_star", 1e4, 1e3)
    assert format_cell(average([(0, above)])) == "> 1e6"
    assert format_cell(average([(0, below)])) == "< 10"
    assert format_cell(average([(0, above), (1, number)])).startswith("≥ 100,000 ± ")
    assert format_cell(average([(0, make.metric("fit/n_star", None, reason="not regular"))])) == "n/a"
