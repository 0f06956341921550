"""Numbers as a reader wants them: a value with as many digits as its error allows."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache

from touchneedle.reports.aggregate import Cell

PLUS_MINUS = " \N{PLUS-MINUS SIGN} "
_LARGEST_EXPONENT = 6
_SMALLEST_EXPONENT = -4


def format_cell(cell: Cell) -> str:
    """A cell as text: ``0.31 +- 0.04``, ``> 1e6`` for a limit, ``n/a`` where there is no number."""
    if cell.value is None:
        return "n/a"
    if cell.all_censored:
        return f"{'<' if cell.censored == 'below' else '>'} {format_limit(cell.value)}"
    sign = {"above": "\N{GREATER-THAN OR EQUAL TO} ", "below": "\N{LESS-THAN OR EQUAL TO} ", "": ""}[cell.censored]
    return sign + format_number(cell.value, cell.stderr)


@lru_cache(maxsize=1 << 18)  # a large report asks for each number several times
def format_number(value: float, stderr: float | None = None) -> str:
    """Value and error to the error's first digit (first two if it starts with 1); three digits without an error.

    Thousands are separated; very small or large pairs share one power of ten: ``(1.2 +- 0.3)e-06``.
    """
    if not math.isfinite(value):
        return _infinite(value)
    if stderr is None or not math.isfinite(stderr):
        return _significant(value)
    if stderr <= 0:
        return _significant(value) + PLUS_MINUS + "0"
    exponent = _exponent(max(abs(value), stderr))
    if _SMALLEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
        places = _places(stderr)
        return _fixed(value, places) + PLUS_MINUS + _fixed(stderr, places)
    scaled_value, scaled_error = Decimal(repr(value)).scaleb(-exponent), Decimal(repr(stderr)).scaleb(-exponent)
    places = _places(float(scaled_error))
    return f"({_fixed(scaled_value, places)}{PLUS_MINUS}{_fixed(scaled_error, places)})e{exponent:+03d}"


def format_limit(value: float) -> str:
    """A limit: ``1e6`` for a power of ten from 1e4 on, thousands separated otherwise."""
    if not math.isfinite(value):
        return _infinite(value)
    if value >= 1e4 and math.isclose(value, 10.0 ** round(math.log10(value)), rel_tol=1e-9):
        return f"1e{round(math.log10(value))}"
    return _significant(value)


def format_count(value: int) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}"


def _significant(value: float) -> str:
    if value == 0:
        return "0"
    exponent = _exponent(value)
    if not _SMALLEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
        return f"{value:.2e}"
    if float(value).is_integer() and abs(value) < 1e5:
        return f"{value:,.0f}"
    return _fixed(value, 2 - exponent)


def _places(stderr: float) -> int:
    """Decimal places that show the error's leading digit; at most six."""
    exponent = _exponent(stderr)
    leading = round(stderr / 10.0**exponent, 1)
    return min(6, -exponent + (1 if leading < 2 else 0))


def _fixed(value: float | Decimal, places: int) -> str:
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    rounded = number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    return f"{rounded if rounded else abs(rounded):,.{max(0, places)}f}"


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _infinite(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
