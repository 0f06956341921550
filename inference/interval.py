"""One confidence interval of one parameter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Where 2 Delta ln L, maximised over all other parameters, is below a quantile of chi2 with one degree of freedom.

    Attributes:
        value: the best fit.
        low: lower end; the bound of the parameter where ln L is still that high there.
        high: upper end, likewise.
        low_at_bound: the lower end is the bound.
        high_at_bound: the upper end is the bound.
        valid: both ends were found by fits that converged.
        disjoint: another minimum lies as low, so that there may be more than this interval.
    """

    parameter: str
    level: float
    value: float
    low: float
    high: float
    low_at_bound: bool = False
    high_at_bound: bool = False
    valid: bool = True
    disjoint: bool = False

    @property
    def errors(self) -> str:
        """Its asymmetric errors, ``-0.12 +0.15``; an end at a bound is marked."""
        low, high = self.low - self.value, self.high - self.value
        return f"{low:+.4g}{' (bound)' * self.low_at_bound} {high:+.4g}{' (bound)' * self.high_at_bound}"
