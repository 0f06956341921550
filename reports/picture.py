"""A finished figure: its SVG, what it shows, and what is missing from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from touchneedle.reports.material import Drawn, Material, bare
from touchneedle.reports.panels import LEFT, Box, Ink, Panel, figure_svg, grid, legend_lines
from touchneedle.reports.rows import Problem

# Panels at most, for features and nuisances; the evaluation writes fewer.
MAX_PANELS = 6


@dataclass(frozen=True)
class Picture:
    """An SVG (empty if there is nothing to draw), notes on what is missing, files that could not be read, a caption of one line."""

    svg: str
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Layout:
    """Room for the panels of a figure, in ``columns``, above a legend; ``height`` of a panel in pixels, texts included."""

    count: int
    legend: tuple[tuple[str, Ink], ...]
    columns: int = 2
    height: float = 270
    left: float = LEFT

    @cached_property
    def boxes(self) -> list[Box]:
        """Where the data of each panel go."""
        return grid(self.count, self.columns, self.height, legend_lines(self.legend), self.left)[0]

    def picture(self, panels: Sequence[Panel], material: Material, caption: str, missing: Sequence[str] = ()) -> Picture:
        """The finished picture, with notes on rows that are ``missing`` in it."""
        height = grid(self.count, self.columns, self.height, legend_lines(self.legend))[1]
        return Picture(figure_svg(panels, height, self.legend, caption), (*material.notes, *missing), (), caption)


def nothing(material: Material, reason: str, caption: str) -> Picture:
    """The picture of what is not there, and why."""
    return Picture("", (*material.notes, reason), caption=caption)


def lacking(material: Material, present: Sequence[Drawn], what: str = "curves") -> list[str]:
    """One note that names the rows beside the oracle which have none of what a figure shows."""
    names = [drawn.label for drawn in material.answers if drawn not in present]
    return [f"no {what}: {', '.join(names)}"] if names else []


def legend_of(drawn: Sequence[Drawn], *, lines: bool = False) -> tuple[tuple[str, Ink], ...]:
    """Names and looks of rows; ``lines`` without markers."""
    return tuple((each.label, bare(each.ink) if lines else each.ink) for each in drawn)
