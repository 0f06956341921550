"""Neyman intervals with Feldman-Cousins ordering: pseudo-experiments at every value decide whether it is accepted.

A value mu is accepted where t(mu) of the data is below the quantile of t among pseudo-experiments at mu (Feldman and
Cousins 1998, arXiv:physics/9711021). Nuisances of the pseudo-experiments are those that fit the data best at mu: the
profiled construction, or plug-in (ATLAS 2024, arXiv:2412.01600, uses it; Cranmer 2003, arXiv:physics/0310108, sec. 5).
It covers at these nuisances; elsewhere approximately, see `touchneedle.inference.coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.calibrated import LEVELS, Thresholds, calibrated_thresholds, interest_column
from touchneedle.inference.drawing import blank
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.result import Result
from touchneedle.inference.scan import profile_scan
from touchneedle.inference.simulated import Progress, Simulation
from touchneedle.inference.terms import fit_limits
from touchneedle.toys.base import Events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DEFAULT_VALUES = 13
_DEFAULT_WIDTH = 3.0


@dataclass(frozen=True)
class Bound:
    """An end of an interval.

    Attributes:
        error: Monte Carlo error.
        crossed: whether t crosses its threshold there; else the scan (or the parameter's bounds) ends there.
    """

    value: float
    error: float
    crossed: bool

    def __str__(self) -> str:
        return f"{self.value:.4g} +- {self.error:.2g}" if self.crossed else f"{self.value:.4g} (end of the scan)"


@dataclass(frozen=True)
class NeymanInterval:
    """Accepted values of one confidence level; where acceptance is disjoint there are several."""

    level: float
    low: Bound
    high: Bound

    def holds(self, value: float) -> bool:
        """Whether a value is inside."""
        return self.low.value <= value <= self.high.value

    def __str__(self) -> str:
        return f"{100 * self.level:.3g} %: [{self.low}, {self.high}]"


@dataclass(frozen=True)
class NeymanResult(Result):
    """A Neyman construction for one parameter.

    Attributes:
        best: best-fit value.
        t: of the data at the scanned values (m,).
        thresholds: the belt: quantiles of t at these values, nuisances at their conditional best fit.
        p_value: share of pseudo-experiments that agree less with each value than the data do (m,).
        p_error: its binomial error (m,).
        intervals: accepted values, level after level.
        scan_valid: whether the constrained fit of the data converged (m,).
    """

    parameter: str
    unit: str
    best: float
    t: Tensor
    thresholds: Thresholds
    p_value: Tensor
    p_error: Tensor
    intervals: tuple[NeymanInterval, ...]
    scan_valid: Tensor

    @property
    def values(self) -> Tensor:
        """Scanned values (m,)."""
        return self.thresholds.values

    def at_level(self, level: float) -> tuple[NeymanInterval, ...]:
        """The intervals of one level."""
        return tuple(interval for interval in self.intervals if math.isclose(interval.level, level, rel_tol=1e-6))

    def summary(self) -> str:
        """Best fit, intervals with Monte Carlo errors, and failures."""
        lines = [f"{self.parameter} = {self.best:.4g} {self.unit}".rstrip() + ", Neyman intervals (Feldman-Cousins ordering)"]
        lines += [f"  {interval}" for interval in self.intervals]
        invalid = int((~self.scan_valid).sum())
        if invalid:
            lines.append(f"{invalid} of {len(self.scan_valid)} constrained fits of the data did not converge")
        return "\n".join([*lines, *self.thresholds.doubts()])

    def draw(self) -> Figure:
        """t of the data and its thresholds against the parameter."""
        figure, axes = blank(f"{self.parameter} {self.unit}".rstrip(), "t")
        axes.plot(self.values, self.t, color="black", label="data")
        for column, level in enumerate(self.thresholds.levels):
            middle, error = self.thresholds.threshold[:, column], self.thresholds.error[:, column]
            axes.plot(self.values, middle, color=f"C{column}", label=f"{100 * level:.3g} %")
            axes.fill_between(self.values, middle - error, middle + error, color=f"C{column}", alpha=0.3, linewidth=0)
            axes.axhline(float(self.thresholds.asymptotic[column]), color=f"C{column}", linestyle=":")
        axes.legend(frameon=False)
        return figure


def neyman(
    likelihood: Likelihood,
    events: Events,
    parameter: str,
    simulation: Simulation,
    values: Tensor | None = None,
    *,
    auxiliary: Tensor | None = None,
    best: FitResult | None = None,
    levels: Sequence[float] = LEVELS,
    progress: Progress | None = None,
) -> NeymanResult:
    """Neyman intervals of one parameter of interest.

    Args:
        likelihood: of the data, and of the pseudo-experiments.
        events: the data, of unit weight.
        parameter: a parameter of interest.
        simulation: where pseudo-experiments come from, and how many.
        values: rising values to test (m,); by default 13 over +-3 sigma of the best fit, inside the bounds.
        auxiliary: measured values of the constrained nuisances (p,); nominal by default.
        best: the fit of the data, where it is known (several starts).
        levels: confidence levels.
        progress: called after each value with (done, total).

    Raises `InputError` for a nuisance, weighted data, and fewer than two or unordered values.
    """
    column = likelihood.parameters.index(parameter)
    interest_column(likelihood.parameters, parameter)
    check_unit_weights(events)
    best = fit(likelihood, events, simulation.starts, auxiliary) if best is None else best
    scan = profile_scan(likelihood, events, parameter, _values(likelihood, best, column, values), auxiliary, best)
    thresholds = calibrated_thresholds(likelihood, parameter, scan.theta, simulation, levels, progress)
    p_value, p_error = thresholds.p_value(scan.t)
    return NeymanResult(
        parameter=parameter,
        unit=likelihood.parameters.parameters[column].unit,
        best=float(best.theta[column]),
        t=scan.t,
        thresholds=thresholds,
        p_value=p_value,
        p_error=p_error,
        intervals=tuple(interval for k in range(len(thresholds.levels)) for interval in accepted(thresholds, scan.t, k)),
        scan_valid=scan.valid,
    )


def accepted(thresholds: Thresholds, t: Tensor, column: int) -> tuple[NeymanInterval, ...]:
    """Intervals in which t (m,) is below one of the thresholds, by linear interpolation of both roots.

    sqrt(t) is linear in the parameter for a parabola, so that a coarse scan is enough.
    """
    values, level = thresholds.values, thresholds.levels[column]
    root = thresholds.threshold[:, column].sqrt()
    height = t.sqrt() - root
    error = 0.5 * thresholds.error[:, column] / root.clamp_min(1e-12)
    inside = [bool(entry) for entry in height <= 0]
    intervals = []
    low: Bound | None = Bound(float(values[0]), 0.0, False) if inside[0] else None
    for k in range(1, len(values)):
        if inside[k] == inside[k - 1]:
            continue
        bound = crossing(values[k - 1 : k + 1], height[k - 1 : k + 1], error[k - 1 : k + 1])
        if low is not None:
            intervals.append(NeymanInterval(level, low, bound))
        low = bound if inside[k] else None
    if low is not None:
        intervals.append(NeymanInterval(level, low, Bound(float(values[-1]), 0.0, False)))
    return tuple(intervals)


def crossing(values: Tensor, height: Tensor, error: Tensor) -> Bound:
    """Where a line through two points (2,) crosses zero, and the error there due to those of the heights."""
    step, drop = values[1] - values[0], height[0] - height[1]
    value = values[0] + step * height[0] / drop
    slopes = step * torch.stack([-height[1], height[0]]) / drop**2
    return Bound(float(value), float((slopes * error).norm()), True)


def _values(likelihood: Likelihood, best: FitResult, column: int, values: Tensor | None) -> Tensor:
    if values is None:
        low, high = fit_limits(likelihood.estimator)[:, column].tolist()
        reach = _DEFAULT_WIDTH * float(best.sigma[column])
        ends = max(low, float(best.theta[column]) - reach), min(high, float(best.theta[column]) + reach)
        values = torch.linspace(*ends, _DEFAULT_VALUES, dtype=torch.float64)
    if len(values) < 2 or not bool((values.diff() > 0).all()):
        raise InputError(f"values: expected at least two rising values to test; got {values.tolist()}")
    return values.double()


def check_unit_weights(events: Events) -> None:
    """Raise `InputError` for weighted data, which pseudo-experiments of unit weights cannot be compared with."""
    if not bool((events.weight == 1).all()):
        raise InputError("events: expected data of unit weight; got other weights; Asimov data have Delta ln L intervals only")
