"""Columns of text for the summaries of results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a header; columns that are empty in all rows are left out."""
    used = [k for k in range(len(header)) if any(row[k] for row in rows)]
    lines = [[line[k] for k in used] for line in (header, *rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(used))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def signed(value: SupportsFloat) -> str:
    """A number with its sign; a dash for what is not a number."""
    number = float(value)
    return f"{number:+.3g}" if math.isfinite(number) else "-"


def rounded(value: SupportsFloat, *errors: SupportsFloat) -> tuple[str, ...]:
    """A value and its errors with two digits of the smallest error that is not zero."""
    numbers = [float(value), *map(float, errors)]
    known = [abs(error) for error in numbers[1:] if math.isfinite(error) and error != 0]
    if not known:
        return tuple(f"{number:.4g}" for number in numbers)
    digits = 1 - math.floor(math.log10(min(known)))
    return tuple(f"{number:.{max(0, min(digits, 12))}f}" for number in numbers)
