"""The figures of a table, each from the same rows: what to call them, and how to draw them all.

A figure is a function of what the records and their curves say, and of nothing else: equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from touchneedle.reports.curves import Series, read_curves
from touchneedle.reports.figure_bias import draw_bias
from touchneedle.reports.figure_calibration import draw_calibration
from touchneedle.reports.figure_closure import draw_closure
from touchneedle.reports.figure_coverage import draw_coverage
from touchneedle.reports.figure_pulls import draw_pulls
from touchneedle.reports.figure_response import draw_responses
from touchneedle.reports.figure_scan import draw_scan
from touchneedle.reports.figure_slice import draw_slices
from touchneedle.reports.material import Material, gather, shorten
from touchneedle.reports.picture import Picture
from touchneedle.reports.rows import Row

__all__ = ["FIGURES", "Figure", "Kind", "Picture", "Series", "draw_all", "read_curves", "shorten"]


@dataclass(frozen=True)
class Kind:
    """One figure that every table can have: its name in links, its title, and the function that draws it."""

    name: str
    title: str
    draw: Callable[[Material], Picture]


@dataclass(frozen=True)
class Figure:
    """One figure of one table."""

    name: str
    title: str
    picture: Picture


FIGURES: tuple[Kind, ...] = (
    Kind("scan", "Likelihood scan and log-ratio", draw_scan),
    Kind("slices", "Slices of the log-ratio", draw_slices),
    Kind("responses", "Response to nuisances", draw_responses),
    Kind("calibration", "Calibration", draw_calibration),
    Kind("closure", "Closure of each feature", draw_closure),
    Kind("pulls", "Pulls", draw_pulls),
    Kind("coverage", "Coverage", draw_coverage),
    Kind("bias", "Bias against events, and n*", draw_bias),
)


def draw_all(rows: Sequence[Row], parameter: str) -> list[Figure]:
    """Every figure of a table's rows in their order; one without data has no SVG and says why. Curves are read once.

    Files that could not be read are problems of the first figure alone.
    """
    material = gather(rows, parameter)
    first, *others = FIGURES
    return [
        Figure(first.name, first.title, replace(first.draw(material), problems=material.problems)),
        *(Figure(kind.name, kind.title, kind.draw(material)) for kind in others),
    ]
