"""Pulls of the parameter of interest: their histogram, row by row, against the standard normal distribution."""

from __future__ import annotations

import math

from touchneedle.reports.curves import Series, pooled
from touchneedle.reports.material import Drawn, Material
from touchneedle.reports.numbers import format_number
from touchneedle.reports.panels import Box, Ink, Panel
from touchneedle.reports.picture import Layout, Picture, lacking, nothing
from touchneedle.reports.scales import Scale

_EDGE = 4.0
# Air for the text; a spike taller than this leaves the frame.
_AIR, _HIGHEST = 1.4, 0.9
_NORMAL = Ink("currentColor", marker="", width=1.3)
_AXIS = tuple((value, f"{value:g}".replace("-", "\N{MINUS SIGN}")) for value in (-4.0, -2.0, 0.0, 2.0, 4.0))


def draw_pulls(material: Material) -> Picture:
    """One panel for each row: density of the pulls over all seeds with 68 % errors, and N(0, 1)."""
    found = [(drawn, pooled(histograms)) for drawn in material.rows if (histograms := _histograms(drawn, material.parameter))]
    caption = (
        f"Pulls (fit less truth) / own sigma of {material.parameter or 'the parameter of interest'} at nominal and the largest number of "
        "events, over all seeds, 68 % errors; the line is N(0, 1), which a right answer follows. Fits beyond 4 stand in the last bin."
    )
    if not found:
        return nothing(material, "no pulls: the toy is not regular, or records without such curves", caption)
    layout = Layout(len(found), (), columns=min(4, max(2, len(found))), height=215)
    top = _AIR * min(_HIGHEST, max([0.4, *(y for _, series in found for y in series.y if math.isfinite(y))]))
    panels = [_panel(box, drawn, series, top, material.parameter) for box, (drawn, series) in zip(layout.boxes, found, strict=True)]
    shown = [drawn for drawn, _ in found]
    return layout.picture(panels, material, caption, lacking(material, shown))


def _histograms(drawn: Drawn, parameter: str) -> list[Series]:
    """Of every seed, at the largest number of events."""
    names = [name for name in drawn.series("pull") if name.partition(", ")[0] == parameter] or drawn.series("pull")[:1]
    return drawn.each("pull", names[-1]) if names else []


def _panel(box: Box, drawn: Drawn, series: Series, top: float, parameter: str) -> Panel:
    title = drawn.label if len(drawn.label) <= 30 else drawn.label[:29] + "\N{HORIZONTAL ELLIPSIS}"
    panel = Panel(box, Scale(-_EDGE, _EDGE, names=_AXIS), Scale(0.0, top), "pull", "", title)
    half = 0.5 * (series.x[1] - series.x[0]) if len(series.x) > 1 else 0.25
    panel.steps([x - half for x in series.x] + [series.x[-1] + half], series.y, drawn.ink)
    panel.points(series.x, series.y, series.low, series.high, Ink(drawn.ink.colour, marker=drawn.ink.marker))
    grid = [0.1 * k - _EDGE for k in range(81)]
    panel.line(grid, [math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) for x in grid], _NORMAL)
    for line, (name, metric) in enumerate((("mean", "fit/pull_mean"), ("width", "fit/pull_width"))):
        cells = drawn.cells(metric, parameter=parameter)
        if cells:
            largest = max(cells, key=lambda cell: float(cell.at.get("n_events") or 0))
            panel.note(f"{name} {format_number(largest.value or 0.0, largest.stderr)}", line)
    return panel
