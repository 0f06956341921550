"""Coverage of the 68 and 95 % intervals, row by row, beside the binomial band of a right answer."""

from __future__ import annotations

import math

from scipy.stats import binom

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.material import Drawn, Material, shorten
from touchneedle.reports.panels import NAME, NAMES_LEFT, Box, Ink, Panel
from touchneedle.reports.picture import Layout, Picture, lacking, nothing
from touchneedle.reports.scales import Scale

LEVELS = (("fit/coverage_68", 0.6827), ("fit/coverage_95", 0.9545))
BAND_LEVEL = 0.95
_BAND = Ink("currentColor", marker="")
_ROW_HEIGHT = 26
_WORST = 0.3
_RIGHT = 1.015
# Lines of one row: their distance, and half the height of a band.
_APART, _HALF = 0.36, 0.14


def draw_coverage(material: Material) -> Picture:
    """One line for each row and number of events in a panel for each level; all seeds together."""
    parameter = material.parameter or "the parameter of interest"
    caption = (
        f"Share of pseudo-experiments whose interval of {parameter} holds the truth, at nominal, over all seeds, binomial errors; the grey "
        "band holds 95 % of what as many experiments of a right answer give. Upper line: fewest events, lower line: most."
    )
    present = [drawn for drawn in material.rows if any(drawn.cells(metric, parameter=material.parameter) for metric, _ in LEVELS)]
    if not present:
        return nothing(material, "no coverage: the toy is not regular, or the fit family was not evaluated", caption)
    layout = Layout(len(LEVELS), (), height=84 + _ROW_HEIGHT * len(present), left=NAMES_LEFT)
    panels = [
        _panel(box, present, metric, level, material.parameter, named=k == 0)
        for k, (box, (metric, level)) in enumerate(zip(layout.boxes, LEVELS, strict=True))
    ]
    return layout.picture(panels, material, caption, lacking(material, present, "fits"))


def expected_band(level: float, n: int) -> tuple[float, float]:
    """Shares between which 95 % of binomial samples of ``n`` lie, at least."""
    edge = (1 - BAND_LEVEL) / 2
    return float(binom.ppf(edge, n, level)) / n, float(binom.ppf(1 - edge, n, level)) / n


def _panel(box: Box, present: list[Drawn], metric: str, level: float, parameter: str, *, named: bool) -> Panel:
    count = len(present)
    rows = [(float(count - k), drawn, _by_events(drawn, metric, parameter)) for k, drawn in enumerate(present)]
    low = _lowest(level, [cell for _, _, cells in rows for cell in cells])
    names = tuple((at, shorten(drawn.label, NAME)) for at, drawn, _ in rows)
    panel = Panel(box, Scale(low, _RIGHT), Scale(0.4, count + 0.6, names=names if named else ()), f"coverage, nominal {level:.2%}")
    panel.rule(x=level)
    for at, drawn, cells in rows:
        for k, cell in enumerate(cells):
            _draw_cell(panel, at - _APART * (k - (len(cells) - 1) / 2), cell, level, Ink(drawn.ink.colour, marker=drawn.ink.marker))
    return panel


def _draw_cell(panel: Panel, y: float, cell: Cell, level: float, ink: Ink) -> None:
    value, error = cell.value or 0.0, cell.stderr or math.nan
    panel.area(expected_band(level, _experiments(cell)), (y - _HALF, y + _HALF), _BAND, 0.16)
    if value < panel.x.low:
        panel.arrow(panel.x.low + 0.06 * (panel.x.high - panel.x.low), y, ink, forward=False)
    else:
        panel.points_across([value], [y], [value - error], [value + error], ink)


def _lowest(level: float, cells: list[Cell]) -> float:
    """The left end: what is measured and expected, but not far below the level; arrows show what lies there."""
    ends = [end for cell in cells for end in ((cell.value or 0.0) - (cell.stderr or 0.0), expected_band(level, _experiments(cell))[0])]
    return max(0.0, min([level - 0.05, *(max(end, level - _WORST) for end in ends)]) - 0.02)


def _by_events(drawn: Drawn, metric: str, parameter: str) -> list[Cell]:
    cells = sorted(drawn.cells(metric, parameter=parameter), key=lambda cell: float(cell.at.get("n_events") or 0))
    return [cells[0], cells[-1]] if len(cells) > 1 else cells


def _experiments(cell: Cell) -> int:
    """Pseudo-experiments of all seeds."""
    return max(1, (cell.n or 1) * cell.n_seeds)
