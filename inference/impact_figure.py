"""The figure of impacts: pulls beside shifts of the parameter of interest, as LHC experiments draw them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from touchneedle.conf.errors import InputError
from touchneedle.inference.figure_style import BLUE, GREEN, GREY, RED, YELLOW, label, new_figure, plain_text, styled
from touchneedle.inference.impacts import Impact, Impacts, Shift
from touchneedle.inference.text_table import rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS = 30


def draw_impacts(result: Impacts) -> Figure:
    """Pulls on the left, impacts on the right (filled: error after the fit; outline: before), at most 30, the largest on top."""
    shown = result.impacts[:_MOST_ROWS]
    if not shown:
        raise InputError("figures: expected at least one impact; got none")
    with styled():
        figure = new_figure(7.6, 1.9 + 0.3 * len(shown))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
        _draw_pulls(left, shown)
        _draw_shifts(right, shown, result)
        left.set_yticks(np.arange(len(shown)), [_name(result, one) for one in shown])
        left.set_ylim(len(shown) - 0.4, -0.6)
        right.tick_params(axis="y", length=0)
        right.spines["left"].set_visible(False)
        figure.suptitle(_title(result), fontsize=10)
        handles, names = right.get_legend_handles_labels()
        figure.legend(handles[::2] + handles[1::2], names[::2] + names[1::2], loc="outside lower center", ncols=4)
        return figure


def _draw_pulls(axes: Axes, shown: tuple[Impact, ...]) -> None:
    axes.axvspan(-2, 2, color=YELLOW, linewidth=0, zorder=0)
    axes.axvspan(-1, 1, color=GREEN, linewidth=0, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    height = np.arange(len(shown))
    pull, width = np.array([one.pull for one in shown]), np.array([one.constraint for one in shown])
    axes.errorbar(pull, height, xerr=width, fmt="o", color="black", markersize=4, capsize=2)
    reach = max(2.5, 1.1 * float(np.nanmax(np.abs(pull) + width, initial=0.0)))
    axes.set_xlim(-reach, reach)
    axes.set_xlabel(r"$(\hat\theta - \theta_0)\,/\,\sigma_{\mathrm{before}}$")


def _draw_shifts(axes: Axes, shown: tuple[Impact, ...], result: Impacts) -> None:
    for side, (colour, name) in enumerate(((RED, "down"), (BLUE, "up"))):
        _bars(axes, [_filled(one)[side] for one in shown], name, color=colour, alpha=0.75, height=0.62)
        _bars(axes, [one.before[side] for one in shown], f"{name}, before the fit", fill=False, edgecolor=colour, height=0.8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.locator_params(axis="x", nbins=5)
    # Equal reach to both sides, so that asymmetries are seen.
    reach = max(abs(value) for value in axes.get_xlim())
    axes.set_xlim(-reach, reach)
    parameter = result.best.parameters.parameters[result.best.parameters.index(result.parameter)]
    unit = f" [{plain_text(parameter.unit)}]" if parameter.unit else ""
    axes.set_xlabel(rf"shift of {label(parameter, unit=False)}{unit}")


def _bars(axes: Axes, values: list[float], name: str, **style: Any) -> None:
    axes.barh(np.arange(len(values)), np.nan_to_num(values), label=name, **style)


def _filled(one: Impact) -> Shift:
    """The shift after the fit; of training the one there is."""
    return one.after if any(value == value for value in one.after) else one.auxiliary


def _name(result: Impacts, one: Impact) -> str:
    if one.parameter not in result.best.names:
        return one.parameter
    return label(result.best.parameters.parameters[result.best.parameters.index(one.parameter)], unit=False)


def _title(result: Impacts) -> str:
    column = result.best.parameters.index(result.parameter)
    parameter = result.best.parameters.parameters[column]
    unit = f" {plain_text(parameter.unit)}" if parameter.unit else ""
    value, total, statistical = rounded(result.best.theta[column], result.total, result.statistical)
    return f"{label(parameter, unit=False)} = {value} $\\pm$ {total}{unit} (statistical {statistical})"
