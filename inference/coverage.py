"""Coverage of intervals: how often they hold the truth, by the asymptotic threshold and by a Neyman construction.

An interval holds the true value where t(true) is below its threshold, so that no interval is built. Three thresholds:

* ``asymptotic``: the quantile of chi2;
* ``neyman``: that of pseudo-experiments at the true point, nuisances included, other ones than those that are judged: it covers by
  construction;
* ``plug_in``: that of the profiled construction, whose pseudo-experiments have the nuisances that fit each data set best at
  the true value. Its threshold is interpolated between constructions at the points of the same value (see `plug_in_threshold`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from touchneedle.inference.calibrated import LEVELS, Thresholds, calibrated_thresholds, interest_column, pool_share_shift, share_with_error
from touchneedle.inference.drawing import blank
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.result import Result
from touchneedle.inference.simulated import Progress, Simulation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("asymptotic", "neyman", "plug_in")
_STREAM = 10_000


@dataclass(frozen=True)
class Coverage(Result):
    """Coverage at true points (m, p), by the methods of `METHODS`.

    Attributes:
        points: the truth (m, p).
        levels: nominal levels (l).
        share: of data sets whose interval holds the truth (3, m, l).
        error: binomial ones with those of the finite pool, and of thresholds that come from pseudo-experiments (3, m, l).
        n_pseudo: data sets judged at each point, and pseudo-experiments of each construction.
        failed: fits that failed at each point (m,), of both, which no share counts.
    """

    parameter: str
    names: tuple[str, ...]
    points: Tensor
    levels: tuple[float, ...]
    share: Tensor
    error: Tensor
    n_pseudo: int
    failed: Tensor

    def summary(self) -> str:
        """A table: one line a point, all methods and levels side by side."""
        head = "".join(f"{f'{method} {100 * level:.3g} %':>22}" for level in self.levels for method in METHODS)
        lines = [f"coverage of intervals in {self.parameter}, {self.n_pseudo} data sets a point", f"{', '.join(self.names):<30}{head}"]
        lines += [self._line(row) for row in range(len(self.points))]
        failed = int(self.failed.sum())
        return "\n".join([*lines, f"{failed} fits failed and are in no share"] if failed else lines)

    def draw(self) -> Figure:
        """Coverage of the first level, point by point in their order."""
        figure, axes = blank("point", f"coverage of {100 * self.levels[0]:.3g} % intervals in {self.parameter}")
        for number, method in enumerate(METHODS):
            place = torch.arange(len(self.points)) + 0.1 * (number - 1)
            axes.errorbar(place, self.share[number, :, 0], self.error[number, :, 0], fmt="o", label=method.replace("_", "-"))
        axes.axhline(self.levels[0], color="0.5", linestyle=":")
        axes.legend(frameon=False)
        return figure

    def _line(self, row: int) -> str:
        cells = [(self.share[m, row, k], self.error[m, row, k]) for k in range(len(self.levels)) for m in range(len(METHODS))]
        place = ", ".join(f"{value:.3g}" for value in self.points[row].tolist())
        return f"{place:<30}" + "".join(f"{f'{share:.3f} +- {error:.3f}':>22}" for share, error in cells)


def coverage(
    likelihood: Likelihood,
    parameter: str,
    points: Tensor,
    simulation: Simulation,
    levels: Sequence[float] = LEVELS,
    progress: Progress | None = None,
) -> Coverage:
    """Coverage of intervals of one parameter of interest where the truth is at points (m, p).

    Points with the same value of the parameter share their constructions for the plug-in: give some that span the nuisances.
    Raises `InputError` for a nuisance.
    """
    points = points.double()
    column = interest_column(likelihood.parameters, parameter)
    thresholds = calibrated_thresholds(likelihood, parameter, points, simulation, levels)
    cells, failed = [], []
    for number, point in enumerate(points):
        judged = simulation.fit(likelihood, point, stream=_STREAM + number)
        kept = judged.kept
        t, conditional = judged.fits.t_true[kept, column], judged.fits.conditional[kept, column]
        cells.append(_cells(thresholds, number, t, conditional, judged.pool_error))
        failed.append(judged.failed)
        if progress is not None:
            progress(number + 1, len(points))
    share, error = torch.stack(cells, 2).unbind(0)
    every = thresholds.failed + torch.tensor(failed)
    return Coverage(parameter, likelihood.parameters.names, points, tuple(levels), share, error, simulation.n_pseudo, every)


def plug_in_threshold(thresholds: Thresholds, row: int, conditional: Tensor) -> Tensor:
    """Thresholds (e, l) at conditional fits (e, p): a plane through those of all points with the parameter's value of one row.

    Least squares in the nuisances that these points vary, held at the nearest ends beyond them; without any, that of the row.
    """
    same = thresholds.values == thresholds.values[row]
    points, values = thresholds.points[same], thresholds.threshold[same]
    varied = (points != points[0]).any(0)
    if not bool(varied.any()):
        return thresholds.threshold[row].expand(len(conditional), -1)
    nodes = points[:, varied]
    low, high = nodes.amin(0), nodes.amax(0)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    plane = torch.linalg.lstsq(_with_one((nodes - middle) / half), values, driver="gelsd").solution
    at = torch.minimum(torch.maximum(conditional[:, varied], low), high)
    return _with_one((at - middle) / half) @ plane


def _with_one(columns: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(columns), 1, dtype=torch.float64), columns], -1)


def _cells(thresholds: Thresholds, row: int, t: Tensor, conditional: Tensor, pool_error: float) -> Tensor:
    """Shares and errors (2, 3, l) of one point."""
    plug_in = plug_in_threshold(thresholds, row, conditional)
    cuts = [thresholds.asymptotic.expand_as(plug_in), thresholds.threshold[row].expand_as(plug_in), plug_in]
    shifts = torch.tensor([pool_share_shift(level, pool_error) for level in thresholds.levels], dtype=torch.float64)
    shares, errors = [], []
    for number, cut in enumerate(cuts):
        share, error = share_with_error((t[:, None] <= cut).sum(0), torch.tensor(len(t)))
        shares.append(share)
        error = torch.hypot(error, shifts)
        errors.append(error if number == 0 else torch.hypot(error, _shift(t, cut, thresholds.error[row])))
    return torch.stack([torch.stack(shares), torch.stack(errors)])


def _shift(t: Tensor, cut: Tensor, error: Tensor) -> Tensor:
    """By how much the share moves with thresholds one error up or down (l,)."""
    up, down = (t[:, None] <= cut + error).double().mean(0), (t[:, None] <= cut - error).double().mean(0)
    return 0.5 * (up - down)
