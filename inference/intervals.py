"""Asymmetric errors: where the profile likelihood crosses a level, found by constrained fits.

The ends solve 2 [ln L(best) - max ln L(value)] = q, q the quantile of chi2 with one degree of freedom (MINOS; James and Roos
1975, Comput. Phys. Commun. 10, 343; Wilks 1938). The search is in the square root, which is nearly a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from scipy import optimize, stats

from touchneedle.conf.errors import InputError
from touchneedle.inference.fit_result import FitResult
from touchneedle.inference.fittable import Fittable, check_events
from touchneedle.inference.interval import Interval
from touchneedle.inference.profiled import ABOVE, Held, Profiler
from touchneedle.inference.result import Result
from touchneedle.inference.text_table import table
from touchneedle.inference.weighted import refuse_weighted
from touchneedle.toys.base import EventSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOLERANCE = 1e-7
_MOST_STEPS = 40
_FIRST_STEP = 1.1


@dataclass(frozen=True)
class ProfileIntervals(Result):
    """Intervals of some parameters at some levels.

    Attributes:
        intervals: parameter by parameter, level by level.
        best: the best fit.
        above: how far a constrained fit rose above the best fit, in 2 ln L; more than 0.001 means that it had missed the maximum.
    """

    intervals: tuple[Interval, ...]
    best: FitResult
    above: float = 0.0

    def of(self, parameter: str, level: float | None = None) -> Interval:
        """The interval of a parameter, the first one if no level is said; raises `InputError` if there is none."""
        for found in self.intervals:
            if found.parameter == parameter and (level is None or math.isclose(found.level, level)):
                return found
        raise InputError(f"intervals: there is none of {parameter}{'' if level is None else f' at {level:g}'}")

    def summary(self) -> str:
        """A table of intervals, then what is doubtful."""
        rows = [self._row(found) for found in self.intervals]
        lines = [table(["parameter", "level", "value", "errors", "low", "high", "unit", "note"], rows)]
        if self.above > ABOVE:
            lines.append(f"a constrained fit lies {self.above:.3g} in 2 ln L above the best fit: fit again with starts=20")
        return "\n".join(lines)

    def draw(self) -> Figure:
        """A bar per parameter."""
        from touchneedle.inference.figures import draw_intervals

        return draw_intervals(cast(Any, self))

    def _row(self, found: Interval) -> list[str]:
        unit = self.best.parameters.parameters[self.best.parameters.index(found.parameter)].unit
        notes = [
            "NOT VALID: a constrained fit did not converge" * (not found.valid),
            "another minimum is as low: there may be more than this interval, see its scan" * found.disjoint,
        ]
        numbers = [f"{value:.6g}" for value in (found.low, found.high)]
        note = "; ".join(filter(None, notes))
        return [found.parameter, f"{100 * found.level:.4g} %", f"{found.value:.6g}", found.errors, *numbers, unit, note]


def profile_intervals(
    likelihood: Fittable,
    events: EventSource,
    best: FitResult,
    parameters: Sequence[str] | None = None,
    level: float | Sequence[float] = 0.6827,
    auxiliary: torch.Tensor | None = None,
    *,
    asimov: bool = False,
) -> ProfileIntervals:
    """Asymmetric errors of parameters (those of interest by default) at one or several levels.

    A side on which ln L is still above the level at the parameter's bound ends there, and says so. An interval is the
    connected one around the best fit. Raises `InputError` for an unknown parameter, a level outside (0, 1), a fit that is not
    valid, and weighted events that are not Asimov data.
    """
    refuse_weighted(check_events(likelihood, events), asimov, "profile_intervals")
    if not best.valid:
        raise InputError(f"profile_intervals: expected a valid fit; got one with: {best.reason}")
    levels = [level] if isinstance(level, int | float) else list(level)
    if not all(0 < one < 1 for one in levels):
        raise InputError(f"profile_intervals: expected levels between 0 and 1; got {levels}")
    names = [best.names[column] for column in best.parameters.interest] if parameters is None else list(parameters)
    profiler = Profiler.beside(likelihood, events, best, auxiliary)
    profiles = [_Profile(profiler, best.parameters.index(name)) for name in names]
    found = tuple(profile.interval(one) for profile in profiles for one in levels)
    return ProfileIntervals(found, best, max(0.0, *(-profile.lowest for profile in profiles)) if profiles else 0.0)


@dataclass
class _Profile:
    """The profile likelihood of one parameter, remembered where it was computed."""

    profiler: Profiler
    column: int
    known: dict[float, Held] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        """The lowest 2 [ln L(best) - max ln L]; below zero if the best fit was not the maximum."""
        return min((self._drop(held) for held in self.known.values()), default=0.0)

    def interval(self, level: float) -> Interval:
        best = self.profiler.best
        quantile = float(stats.chi2.ppf(level, 1))
        low, low_at_bound, low_valid = self._end(-1, quantile)
        high, high_at_bound, high_valid = self._end(1, quantile)
        value = float(best.theta[self.column])
        # A rival inside is bridged by what lies between, if that is low enough.
        rivals = [float(other.theta[self.column]) for other in best.minima[1:] if other.distance < quantile]
        disjoint = any(not low <= rival <= high for rival in rivals)
        valid = low_valid and high_valid
        return Interval(best.names[self.column], level, value, low, high, low_at_bound, high_at_bound, valid, disjoint)

    def _end(self, side: int, quantile: float) -> tuple[float, bool, bool]:
        """One end, whether it is the bound, and whether the fits there converged."""
        best = self.profiler.best
        bound = float(best.parameters.parameters[self.column].bounds[(side + 1) // 2])
        inner = float(best.theta[self.column])
        step = _FIRST_STEP * math.sqrt(quantile) * self._width()
        outer = inner
        for _ in range(_MOST_STEPS):
            outer = side * min(side * (outer + side * step), side * bound)
            if self._excess(outer, quantile) >= 0:
                break
            if outer == bound:
                return bound, True, self.known[bound].valid
            inner = outer
        else:
            return outer, False, False
        return self._root(inner, outer, quantile)

    def _root(self, inner: float, outer: float, quantile: float) -> tuple[float, bool, bool]:
        if inner == outer:
            return outer, True, True
        end, told = optimize.brentq(
            self._excess, inner, outer, args=(quantile,), xtol=_TOLERANCE * self._width(), full_output=True, disp=False
        )
        valid = all(self.known[value].valid for value in (outer, end) if value in self.known)
        return float(end), False, valid and bool(told.converged)

    def _excess(self, value: float, quantile: float) -> float:
        """Root of 2 Delta ln L at a value, less that of the quantile; negative inside."""
        if value == float(self.profiler.best.theta[self.column]):
            return -math.sqrt(quantile)
        if value not in self.known:
            nearest = min(self.known, key=lambda other: abs(other - value), default=None)
            near = [] if nearest is None else [self.known[nearest].theta]
            self.known[value] = self.profiler.at([self.column], [value], near)
        drop = self._drop(self.known[value])
        return math.sqrt(max(drop, 0.0)) - math.sqrt(quantile) if math.isfinite(drop) else math.sqrt(quantile)

    def _drop(self, held: Held) -> float:
        return 2 * (self.profiler.best.value - held.value)

    def _width(self) -> float:
        """The parameter's error, or its first step where it has none."""
        return float(self.profiler.covariance[self.column, self.column].sqrt())
