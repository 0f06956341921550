"""Axes: where a value lies, round ticks, and how far an axis reaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_FAR = 4.0
_TOO_FAR = 4.0


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``, linear or logarithmic; ``names`` replace the numbers of its ticks."""

    low: float
    high: float
    log: bool = False
    names: tuple[tuple[float, str], ...] | None = None

    def share(self, value: float) -> float:
        """Where a value lies between low (0) and high (1); at most four axes away, NaN where it has no place."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return min(max((at - low) / ((high - low) or 1.0), -_FAR), 1 + _FAR)

    def ticks(self) -> list[tuple[float, str]]:
        """Values with their texts: steps of 1, 2, 2.5 or 5, or powers of ten; none on an axis without length."""
        if self.names is not None:
            return list(self.names)
        if not 0 < self.high - self.low < math.inf:
            return []
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [(10.0**power, f"{10**power:,}" if 0 <= power < 5 else f"1e{power}") for power in powers]
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(k * step, number(k * step, step)) for k in range(first, last + 1)]


def number(value: float, step: float) -> str:
    """A tick's text, with the decimals that its step needs."""
    if value and not 1e-4 <= abs(step) < 1e5:
        return f"{value:.3g}".replace("-", MINUS)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:,.{places + (round(step * 10**places, 6) % 1 > 0)}f}"
    return "0" if value == 0 else text.replace("-", MINUS)


def span(values: Sequence[float], margin: float = 0.08, around: Sequence[float] = ()) -> tuple[float, float]:
    """From the lowest to the highest finite value (of ``around``, too), with a margin; (-1, 1) where there is none."""
    known = [value for value in (*values, *around) if math.isfinite(value)]
    if not known:
        return -1.0, 1.0
    low, high = min(known), max(known)
    extra = margin * (high - low) or max(1e-3, 0.1 * abs(high))
    return low - extra, high + extra


def reach(groups: Sequence[Sequence[float]], smallest: float = 0.0) -> float:
    """Half height of a panel around zero: the largest size of any group, but at most four times that of the median group.

    So that a hopeless answer leaves the frame, and the others can be seen. Values that are not finite do not count.
    """
    sizes = [[abs(value) for value in group if math.isfinite(value)] for group in groups]
    largest = sorted(max(group) for group in sizes if group)
    limit = min(largest[-1], _TOO_FAR * largest[len(largest) // 2]) if largest else 0.0
    return max(limit, smallest) or 1.0


def _step(length: float) -> float:
    raw = length / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(step for step in _STEPS if step * power >= raw * (1 - 1e-9))
