"""Figures of results; matplotlib is imported here, when the first is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from touchneedle.conf.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def blank(x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one pair of labelled axes; raises `InputError` where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("figures: expected matplotlib; it is not installed; install touchneedle[bench]") from error
    figure = Figure(figsize=(5.5, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes
