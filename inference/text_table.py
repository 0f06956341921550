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
