"""Profile likelihood along one parameter, or over a grid of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.fit import FitResult, fit
from touchneedle.inference.fittable import Fittable, check_events
from touchneedle.inference.interval import Interval
from touchneedle.inference.profiled import ABOVE, Held, Profiler
from touchneedle.inference.result import Result
from touchneedle.inference.weighted import refuse_weighted
from touchneedle.toys.base import EventSource, Parameter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REACH = 3.5
_POINTS = 31
_GRID_POINTS = 21


@dataclass(frozen=True)
class ProfileScan(Result):
    """Profile likelihood along one parameter.

    Attributes:
        values: scanned values (m,).
        t: 2 [ln L(best) - max ln L at the value] (m,); never negative.
        theta: maximum at each value (m, p).
        valid: whether each constrained fit converged (m,).
        best: the best fit.
        above: how far the scan rose above the best fit, in 2 ln L; more than 0.001 means that the fit had missed the maximum.
    """

    parameter: str
    values: Tensor
    t: Tensor
    theta: Tensor
    valid: Tensor
    best: FitResult
    above: float = 0.0

    @property
    def axis(self) -> Parameter:
        """The scanned parameter."""
        return self.best.parameters.parameters[self.best.parameters.index(self.parameter)]

    def summary(self) -> str:
        """Range, and where it was doubtful."""
        unit = f" {self.axis.unit}" if self.axis.unit else ""
        where = f", {float(self.values.min()):.4g} to {float(self.values.max()):.4g}{unit}" if len(self.values) else ""
        return _told(f"profile scan of {self.parameter}: {len(self.values)} points{where}", self.valid, self.above)

    def draw(self, intervals: Sequence[Interval] = ()) -> Figure:
        """2 Delta ln L against the parameter, with intervals of it if given."""
        from touchneedle.inference.figures import draw_scan

        return draw_scan(cast(Any, self), [found for found in intervals if found.parameter == self.parameter])


@dataclass(frozen=True)
class ProfileGrid(Result):
    """Profile likelihood over two parameters.

    Attributes:
        first: values of the first parameter (a,).
        second: values of the second (b,).
        t: 2 [ln L(best) - max ln L at the point] (a, b); never negative.
        theta: maximum at each point (a, b, p).
        valid: whether each constrained fit converged (a, b).
        best: the best fit.
        above: how far the scan rose above the best fit, in 2 ln L.
    """

    names: tuple[str, str]
    first: Tensor
    second: Tensor
    t: Tensor
    theta: Tensor
    valid: Tensor
    best: FitResult
    above: float = 0.0

    @property
    def turned(self) -> ProfileGrid:
        """The same grid with the two parameters exchanged."""
        swapped = (self.t.T, self.theta.transpose(0, 1), self.valid.T)
        return ProfileGrid((self.names[1], self.names[0]), self.second, self.first, *swapped, self.best, self.above)

    def summary(self) -> str:
        """Size, and where it was doubtful."""
        shape = f"{len(self.first)} x {len(self.second)}"
        return _told(f"profile scan of {self.names[0]} and {self.names[1]}: {shape} points", self.valid, self.above)

    def draw(self) -> Figure:
        """Contours at 68 and 95 %, chi2 of two degrees of freedom."""
        from touchneedle.inference.figures import draw_grid

        return draw_grid(cast(Any, self))


def profile_scan(
    likelihood: Fittable,
    events: EventSource,
    parameter: str,
    values: Tensor | None = None,
    auxiliary: Tensor | None = None,
    best: FitResult | None = None,
    *,
    asimov: bool = False,
) -> ProfileScan:
    """Maximise ln L over all other parameters at each value of one; 31 values within 3.5 sigma by default.

    Auxiliary measurements are those of the best fit, which is found if it is not given. Raises `InputError` outside the
    bounds, and for weighted events that are not Asimov data.
    """
    refuse_weighted(check_events(likelihood, events), asimov, "profile_scan")
    column = likelihood.parameters.index(parameter)
    best = fit(likelihood, events, auxiliary=auxiliary, asimov=asimov) if best is None else best
    values = scan_values(best, column, _POINTS) if values is None else values.double()
    profiler = Profiler.beside(likelihood, events, best, auxiliary)
    found: list[Held] = []
    for value in values.tolist():
        found.append(profiler.at([column], [value], [held.theta for held in found[-1:]]))
    t, above = _heights(best, found)
    return ProfileScan(parameter, values, t, _stack(found, best), _valid(found), best, above)


def profile_grid(
    likelihood: Fittable,
    events: EventSource,
    names: tuple[str, str],
    first: Tensor | None = None,
    second: Tensor | None = None,
    auxiliary: Tensor | None = None,
    best: FitResult | None = None,
    *,
    asimov: bool = False,
) -> ProfileGrid:
    """Maximise ln L over all other parameters on a grid of two; 21 x 21 values within 3.5 sigma by default.

    Raises `InputError` outside the bounds, for twice the same parameter, and for weighted events that are not Asimov data.
    """
    refuse_weighted(check_events(likelihood, events), asimov, "profile_grid")
    columns = [likelihood.parameters.index(name) for name in names]
    if columns[0] == columns[1]:
        raise InputError(f"profile_grid: expected two different parameters; got {names[0]} twice")
    best = fit(likelihood, events, auxiliary=auxiliary, asimov=asimov) if best is None else best
    axes = [
        scan_values(best, column, _GRID_POINTS) if given is None else given.double()
        for column, given in zip(columns, (first, second), strict=True)
    ]
    profiler = Profiler.beside(likelihood, events, best, auxiliary)
    found = _walk(profiler, columns, axes)
    t, above = _heights(best, found)
    shape = (len(axes[0]), len(axes[1]))
    theta = _stack(found, best).reshape(*shape, -1)
    return ProfileGrid((names[0], names[1]), axes[0], axes[1], t.reshape(shape), theta, _valid(found).reshape(shape), best, above)


def scan_values(best: FitResult, column: int, count: int) -> Tensor:
    """Equidistant values (count,) within 3.5 sigma of the best fit and one of its rivals, inside the bounds."""
    sigma = best.sigma[column]
    if not bool(sigma.isfinite()):
        raise InputError(f"scan of {best.names[column]}: expected a fit with an error, or values to scan; give the values")
    low, high = best.parameters.parameters[column].bounds
    centres = torch.stack([best.theta, *(other.theta for other in best.minima[1:])])[:, column]
    reach = torch.ones_like(centres).index_fill(0, torch.tensor(0), _REACH) * sigma
    return torch.linspace(max(low, float((centres - reach).min())), min(high, float((centres + reach).max())), count, dtype=torch.float64)


def _walk(profiler: Profiler, columns: list[int], axes: list[Tensor]) -> list[Held]:
    """The grid row by row, each point from its neighbours before it."""
    width = len(axes[1])
    found: list[Held] = []
    for a in axes[0].tolist():
        for k, b in enumerate(axes[1].tolist()):
            left = [found[-1].theta] if k else []
            below = [found[-width].theta] if len(found) >= width else []
            found.append(profiler.at(columns, [a, b], left + below))
    return found


def _heights(best: FitResult, found: list[Held]) -> tuple[Tensor, float]:
    """2 (top - ln L) of each maximum, and how far the top is above the best fit."""
    value = torch.tensor([held.value for held in found], dtype=torch.float64)
    highest = max([best.value, *value.tolist()])
    return 2 * (highest - value), 2 * (highest - best.value)


def _stack(found: list[Held], best: FitResult) -> Tensor:
    return torch.stack([held.theta for held in found]) if found else torch.empty(0, len(best.theta), dtype=torch.float64)


def _valid(found: list[Held]) -> Tensor:
    return torch.tensor([held.valid for held in found], dtype=torch.bool)


def _told(what: str, valid: Tensor, above: float) -> str:
    lines = [what]
    if not bool(valid.all()):
        lines.append(f"{int((~valid).sum())} of {valid.numel()} constrained fits did not converge")
    if above > ABOVE:
        lines.append(f"the scan rises {above:.3g} in 2 ln L above the best fit: fit again with starts=20")
    return "\n".join(lines)
