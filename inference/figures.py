"""Standard figures of fits and scans: pulls and correlations, profile scans, contours, the corner of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import interpolate

from touchneedle.conf.errors import InputError
from touchneedle.inference.figure_style import (
    BLUE,
    DELTA_LNL,
    GREY,
    LEVELS,
    RED,
    draw_pulls,
    label,
    new_figure,
    percent,
    quantile,
    styled,
)
from touchneedle.inference.fit_result import FitResult
from touchneedle.inference.interval import Interval
from touchneedle.inference.intervals import ProfileIntervals
from touchneedle.inference.scan import ProfileGrid, ProfileScan
from touchneedle.inference.text_table import rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NUMBERS = 10
_TOP = 9.0
_FINE = 8
_SPLINED = 5


def draw_fit(result: FitResult) -> Figure:
    """Pulls of the constrained nuisances, with their errors after the fit, and the correlations of all parameters."""
    constrained = [k for k, parameter in enumerate(result.parameters.parameters) if parameter.constraint is not None]
    p = len(result.names)
    with styled():
        square = max(4.2, 1.6 + 0.19 * p)
        figure = new_figure(square + 3.4 * bool(constrained), square - 0.8)
        if not constrained:
            _draw_correlations(figure.subplots(), figure, result)
            return figure
        left, right = figure.subplots(1, 2, width_ratios=(3.0, square))
        draw_pulls(left, result.pull[constrained].numpy(), result.constraint[constrained].numpy())
        left.set_yticks(range(len(constrained)), [label(result.parameters.parameters[k], unit=False) for k in constrained])
        _draw_correlations(right, figure, result)
        return figure


def draw_scan(scan: ProfileScan, intervals: Sequence[Interval] = ()) -> Figure:
    """2 Delta ln L along one parameter, the levels of 68 and 95 %, and intervals if given."""
    with styled():
        figure = new_figure(5.4, 3.9)
        axes = figure.subplots()
        _draw_profile(axes, scan)
        best = float(scan.best.theta[scan.best.parameters.index(scan.parameter)])
        for order, interval in enumerate(intervals):
            axes.axvspan(interval.low, interval.high, color=BLUE, alpha=0.12, linewidth=0)
            axes.plot([], [], color=BLUE, alpha=max(0.12, 0.35 - 0.2 * order), linewidth=6, label=_written(interval))
        axes.axvline(best, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        _draw_levels(axes)
        axes.set_xlabel(label(scan.axis))
        axes.set_ylabel(DELTA_LNL)
        axes.set_xlim(float(scan.values.min()), float(scan.values.max()))
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="upper center", frameon=True, edgecolor="none", framealpha=0.9)
        return figure


def draw_intervals(result: ProfileIntervals) -> Figure:
    """The intervals of each parameter on an axis of its own: a thick bar for the first level, thinner ones for others."""
    names = list(dict.fromkeys(found.parameter for found in result.intervals))
    if not names:
        raise InputError("figures: expected at least one interval; got none")
    with styled():
        figure = new_figure(5.4, 0.6 + 0.95 * len(names))
        for axes, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
            parameter = result.best.parameters.parameters[result.best.parameters.index(name)]
            for order, found in enumerate(found for found in result.intervals if found.parameter == name):
                axes.plot([found.low, found.high], [0, 0], color=BLUE, linewidth=max(1.2, 6 - 3.5 * order), solid_capstyle="butt")
                axes.plot(found.value, 0, "o", color="black", markersize=4)
                for end, held in ((found.low, found.low_at_bound), (found.high, found.high_at_bound)):
                    if held:
                        axes.plot(end, 0, "|", color=RED, markersize=14, markeredgewidth=2)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_ylim(-1, 1)
            axes.margins(x=0.1)
            axes.set_xlabel(label(parameter), loc="left")
        return figure


def draw_grid(grid: ProfileGrid) -> Figure:
    """2 Delta ln L over two parameters, with contours of 68 and 95 %."""
    with styled():
        figure = new_figure(5.4, 4.3)
        axes = figure.subplots()
        top = quantile(0.9973, 2)
        x, y, t = _refined(grid)
        colours = axes.pcolormesh(x, y, t, cmap="Blues_r", vmin=0, vmax=top, shading="nearest", rasterized=True)
        figure.colorbar(colours, ax=axes, label=DELTA_LNL, extend="max")
        lines = _draw_contours(axes, grid, "white")
        if lines is not None:
            axes.clabel(lines, fmt={quantile(level, 2): percent(level) for level in LEVELS}, fontsize=8)
        first, second = (grid.best.parameters.index(name) for name in grid.names)
        axes.plot(float(grid.best.theta[first]), float(grid.best.theta[second]), "+", color=RED, markersize=10, markeredgewidth=2)
        axes.set_xlabel(label(grid.best.parameters.parameters[first]))
        axes.set_ylabel(label(grid.best.parameters.parameters[second]))
        return figure


def draw_corner(best: FitResult, scans: Sequence[ProfileScan] = (), grids: Sequence[ProfileGrid] = ()) -> Figure:
    """The parameters of interest against each other: ellipses and parabolas of the Hessian, and what scans say beside them."""
    columns = best.parameters.interest
    if not columns or not bool(best.sigma[list(columns)].isfinite().all()):
        raise InputError("corner: expected a fit with errors on its parameters of interest; this one has none")
    with styled():
        figure = new_figure(2.0 + 2.2 * len(columns), 1.6 + 2.0 * len(columns))
        panels = figure.subplots(len(columns), len(columns), squeeze=False, sharex="col")
        for i, row in enumerate(columns):
            for j, column in enumerate(columns):
                if j > i:
                    panels[i, j].set_axis_off()
                elif i == j:
                    _draw_parabola(panels[i, j], best, row, scans)
                else:
                    _draw_ellipses(panels[i, j], best, column, row, grids)
                if j == 0 and i > 0:
                    panels[i, j].set_ylabel(label(best.parameters.parameters[row]))
                if i == len(columns) - 1:
                    panels[i, j].set_xlabel(label(best.parameters.parameters[column]))
        _explain(figure)
        return figure


def _written(interval: Interval) -> str:
    value, low, high = rounded(interval.value, interval.low - interval.value, interval.high - interval.value)
    low = low if low.startswith("-") else f"-{low}"
    return f"{percent(interval.level)}: ${value}\\,_{{{low}}}^{{+{high}}}$"


def _draw_profile(axes: Axes, scan: ProfileScan) -> None:
    _draw_curve(axes, scan)
    failed = ~scan.valid
    if bool(failed.any()):
        axes.plot(scan.values[failed], scan.t[failed], "x", color=RED, label="not converged")
    highest = float(scan.t.max()) if len(scan.t) else _TOP
    axes.set_ylim(0, max(1.05 * quantile(LEVELS[-1], 1), min(_TOP, 1.05 * highest)) * 1.25)


def _draw_curve(axes: Axes, scan: ProfileScan) -> None:
    """The scanned points, joined smoothly."""
    order = scan.values.argsort()
    x, t = scan.values[order].numpy(), scan.t[order].numpy()
    if len(np.unique(x)) == len(x) > 2:
        fine = np.linspace(x[0], x[-1], _FINE * len(x))
        axes.plot(fine, interpolate.PchipInterpolator(x, t)(fine), color=BLUE, linewidth=1.8)
    axes.plot(x, t, ".", color=BLUE, markersize=3.5)


def _refined(grid: ProfileGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both axes and t (b, a) of a grid, interpolated by splines where it is large enough."""
    x, y, t = grid.first.numpy(), grid.second.numpy(), grid.t.numpy()
    if min(t.shape) < _SPLINED or not np.isfinite(t).all():
        return x, y, t.T
    spline = interpolate.RectBivariateSpline(x, y, t)
    x, y = (np.linspace(values[0], values[-1], _FINE * len(values)) for values in (x, y))
    return x, y, spline(x, y).T


def _draw_levels(axes: Axes) -> None:
    for level in LEVELS:
        height = quantile(level, 1)
        axes.axhline(height, color=GREY, linewidth=0.8)
        axes.annotate(
            percent(level), (1, height), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", color=GREY
        )


def _draw_contours(axes: Any, grid: ProfileGrid, colour: str) -> Any:
    """Contours of 68 and 95 %, where they are inside the grid; None if there are none."""
    levels = [quantile(level, 2) for level in LEVELS]
    inside = [level for level in levels if float(grid.t.min()) < level < float(grid.t.max())]
    if not inside:
        return None
    return axes.contour(*_refined(grid), levels=inside, colors=colour, linestyles=["-", "--"][: len(inside)])


def _draw_parabola(axes: Axes, best: FitResult, column: int, scans: Sequence[ProfileScan]) -> None:
    centre, sigma = float(best.theta[column]), float(best.sigma[column])
    z = np.linspace(-2.7, 2.7, 200)
    axes.plot(centre + sigma * z, z**2, color=GREY, linewidth=1.2)
    for scan in scans:
        if scan.parameter == best.names[column]:
            _draw_curve(axes, scan)
    for level in LEVELS:
        axes.axhline(quantile(level, 1), color=GREY, linewidth=0.6)
    axes.set_xlim(centre - 2.9 * sigma, centre + 2.9 * sigma)
    axes.set_ylim(0, 8)
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.spines[["left", "right"]].set_visible([False, True])
    axes.set_ylabel(DELTA_LNL)


def _draw_ellipses(axes: Axes, best: FitResult, across: int, up: int, grids: Sequence[ProfileGrid]) -> None:
    chosen = torch.tensor([across, up])
    root = torch.linalg.cholesky(best.covariance[chosen[:, None], chosen]).numpy()
    angle = np.linspace(0, 2 * np.pi, 200)
    centre = best.theta[chosen].numpy()
    for level, style in zip(LEVELS, ("-", "--"), strict=True):
        x, y = centre[:, None] + quantile(level, 2) ** 0.5 * root @ np.stack([np.cos(angle), np.sin(angle)])
        axes.plot(x, y, color=GREY, linestyle=style, linewidth=1.2)
    for grid in grids:
        if set(grid.names) == {best.names[across], best.names[up]}:
            _draw_contours(axes, grid if grid.names[0] == best.names[across] else grid.turned, BLUE)
    axes.plot(*centre, "+", color=RED, markersize=9, markeredgewidth=1.8)
    axes.set_ylim(centre[1] - 2.9 * float(best.sigma[up]), centre[1] + 2.9 * float(best.sigma[up]))


def _explain(figure: Figure) -> None:
    """A legend beside the panels: what is drawn how."""
    from matplotlib.lines import Line2D

    ways: Any = (
        ("Hessian", GREY, "-"),
        ("scan", BLUE, "-"),
        (f"{percent(LEVELS[0])}", "black", "-"),
        (f"{percent(LEVELS[1])}", "black", "--"),
    )
    handles = [Line2D([], [], color=colour, linestyle=style, label=name) for name, colour, style in ways]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)


def _draw_correlations(axes: Axes, figure: Figure, result: FitResult) -> None:
    names = [label(parameter, unit=False) for parameter in result.parameters.parameters]
    matrix = result.correlation.numpy()
    colours = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    small = len(names) > _MOST_NUMBERS
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=90 if small else 45,
        ha="center" if small else "right",
        rotation_mode="anchor" if not small else None,
    )
    axes.set_yticks(range(len(names)), names)
    if not small:
        for (i, j), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if abs(value) > 0.6 else "black")
    if small:
        axes.tick_params(labelsize=8)
    axes.spines[:].set_visible(False)
    figure.colorbar(colours, ax=axes, label="correlation", shrink=0.8)
