"""Two numbers of the same metric side by side: their difference, paired by seed where both have the seed.

Equal seeds mean equal training and test events, so that a difference is surer than its parts. With at least `MIN_PAIRS` common seeds
its error is sd / sqrt(k) of the k differences; with fewer, that of the two means combined, which ignores the pairing. n* is compared
by its logarithm, and the difference is a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.stats import norm
from scipy.stats import t as student

from touchneedle.reports.aggregate import LOG_AVERAGED, Cell, SeedValue
from touchneedle.reports.numbers import PLUS_MINUS, format_number
from touchneedle.reports.ranking import HUGE, badness_of

MIN_PAIRS = 3
SIGMAS = 2.0


@dataclass(frozen=True)
class Paired:
    """Mean of second - first (of the logarithms if ``ratio``), and what its error rests on."""

    value: float
    stderr: float
    pairs: int
    ratio: bool = False

    @property
    def sigma(self) -> float:
        """Significance with its sign, in normal standard deviations: of Student's t where the error comes from pairs."""
        if self.value == 0:
            return 0.0
        ratio = abs(self.value) / self.stderr if self.stderr > 0 else math.inf
        if self.pairs >= MIN_PAIRS and math.isfinite(ratio):
            ratio = float(norm.isf(student.sf(ratio, self.pairs - 1)))
        return math.copysign(ratio, self.value)

    @property
    def how(self) -> str:
        """What the error rests on."""
        return f"{self.pairs} seeds, paired" if self.pairs >= MIN_PAIRS else "both errors combined"

    @property
    def text(self) -> str:
        """Difference with its error; a factor where logarithms were compared."""
        if not self.ratio:
            return format_number(self.value, self.stderr)
        number, _, error = format_number(math.exp(self.value), math.exp(self.value) * self.stderr).partition(PLUS_MINUS)
        return f"x {number}{PLUS_MINUS}{error}"


def difference(first: Cell, second: Cell) -> Paired | None:
    """Second less first; None where one is missing, a limit, or not finite."""
    if first.censored or second.censored:
        return None
    ratio = first.name in LOG_AVERAGED
    return _paired(_numbers(first, _logarithm if ratio else _same), _numbers(second, _logarithm if ratio else _same), ratio)


def worsening(first: Cell, second: Cell) -> Paired | None:
    """Badness of second less that of first; None as for `difference`, and where no direction is known to be better."""
    if first.censored or second.censored or first.family == "gates":
        return None
    return _paired(_numbers(first, lambda v, e: _bad(first, v, e)), _numbers(second, lambda v, e: _bad(second, v, e)), ratio=False)


def better(names: tuple[str, str], first: Cell, second: Cell) -> str:
    """The name of the better one beyond `SIGMAS` errors, else empty."""
    found = worsening(first, second)
    if found is None or abs(found.sigma) <= SIGMAS:
        return ""
    return names[0] if found.sigma > 0 else names[1]


_Numbers = dict[int, tuple[float, float]]


def _paired(first: _Numbers, second: _Numbers, ratio: bool) -> Paired | None:
    if not first or not second:
        return None
    common = sorted(set(first) & set(second))
    if len(common) >= MIN_PAIRS:
        gaps = [second[seed][0] - first[seed][0] for seed in common]
        mean = math.fsum(gaps) / len(gaps)
        spread = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))
        return Paired(mean, spread, len(common), ratio)
    chosen = [[numbers[seed] for seed in common or sorted(numbers)] for numbers in (first, second)]
    (low, low_error), (high, high_error) = map(_mean, chosen)
    return Paired(high - low, math.hypot(low_error, high_error), len(common), ratio)


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and standard error, the larger of that within and that between runs."""
    k = len(pairs)
    mean = math.fsum(value for value, _ in pairs) / k
    within = math.sqrt(math.fsum(error**2 for _, error in pairs)) / k
    between = math.sqrt(math.fsum((value - mean) ** 2 for value, _ in pairs) / (k - 1) / k) if k > 1 else 0.0
    return mean, max(within, between)


def _numbers(cell: Cell, change: Callable[[float, float], tuple[float, float]]) -> _Numbers:
    found = {seed.seed: change(*pair) for seed in cell.seeds if (pair := _usable(seed)) is not None}
    return {seed: pair for seed, pair in found.items() if all(abs(part) < HUGE for part in pair)}


def _usable(seed: SeedValue) -> tuple[float, float] | None:
    return None if seed.value is None or not math.isfinite(seed.value) else (seed.value, seed.stderr or 0.0)


def _same(value: float, error: float) -> tuple[float, float]:
    return value, error


def _logarithm(value: float, error: float) -> tuple[float, float]:
    return (math.log(value), error / value) if value > 0 else (math.nan, math.nan)


def _bad(cell: Cell, value: float, error: float) -> tuple[float, float]:
    return badness_of(cell, value), error / value if cell.name in LOG_AVERAGED and value > 0 else error
