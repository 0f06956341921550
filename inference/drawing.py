"""Axes for the figures of pseudo-experiments; matplotlib is imported when the first is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from touchneedle.inference.figure_style import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def blank(x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one pair of labelled axes; raises `InputError` where matplotlib is missing."""
    with styled():
        figure = new_figure(5.5, 4.0)
        axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes
