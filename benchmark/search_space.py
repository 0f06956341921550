"""The declared space of a search: for each option a list of values to choose from, or a range. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

# A point of a range where no whole number lies: options that need one refuse it.
_ODD_QUANTILE = 1 / math.pi


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both ends are; spread evenly in the logarithm with ``log``."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, quantile: float) -> int | float:
        """The number at a quantile in [0, 1] of the even spread.

        >>> Range(1, 3).at(0.5), Range(0.01, 1.0, log=True).at(0.5)
        (2, 0.1)
        """
        # Each whole number owns the interval around it.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** quantile if self.log else low + quantile * (high - low)
        return min(max(round(value) if self.whole else value, self.low), self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high and (not self.whole or isinstance(value, int))


Span = list[Any] | Range
"""What one option may be."""


def read_span(value: Any) -> Span:
    """A span of a configuration: ``[64, 128]``, or ``{low: 1e-4, high: 1e-2, log: true}``; raises `InputError` for anything else."""
    if isinstance(value, Range):
        return value
    if isinstance(value, Mapping):
        return _checked(registry.build_options(Range, value, "range"))
    if not isinstance(value, list) or not value:
        raise InputError("expected a list of at least 1 value, or a range {low: ..., high: ..., log: ...}")
    return value


def samples_of(span: Span) -> list[Any]:
    """All values of a list, or the ends of a range and a point between them: if an option takes these, it takes every one."""
    return span if isinstance(span, list) else [span.low, span.high, span.at(_ODD_QUANTILE)]


def holds(span: Span, value: Any) -> bool:
    """Whether a value lies in a span; lists and tuples are the same."""
    return value in span if isinstance(span, Range) else text_of(value) in map(text_of, span)


def text_of(value: Any) -> str:
    """A value as JSON: what stands for it where only plain values can."""
    return json.dumps(value)


def _checked(span: Range) -> Range:
    if not -math.inf < span.low < span.high < math.inf:
        raise InputError("range: expected finite numbers low < high")
    if span.log and span.low <= 0:
        raise InputError("range: expected low > 0, as it is spread in the logarithm")
    return span
