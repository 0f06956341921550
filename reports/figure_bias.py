"""Bias against the number of events, and n*, where it reaches 0.2 of the oracle's sigma."""

from __future__ import annotations

import math
from dataclasses import replace

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.material import Drawn, Material, bare, shorten
from touchneedle.reports.panels import NAME, NAMES_LEFT, Ink, Panel
from touchneedle.reports.picture import Layout, Picture, lacking, legend_of, nothing
from touchneedle.reports.scales import Scale, reach

LIMIT = 0.2
BIASES = ("fit/bias_vs_oracle", "fit/bias")
_SHADE = 0.09
_LARGEST = 3.0
_FEWEST, _MOST = 1.0, 1e6
_WIDEST = 20.0


def draw_bias(material: Material) -> Picture:
    """Signed bias with errors on the left, n* with errors on the right."""
    caption = (
        f"Left: bias of the fitted {material.parameter or 'parameter of interest'} in sigma of the oracle against the number of events, at "
        "nominal, mean over seeds with its error; grey: within 0.2. Right: n*, where its size reaches 0.2; an arrow marks a limit."
    )
    present = [drawn for drawn in material.rows if _biases(drawn, material.parameter) or _n_star(drawn, material.parameter)]
    if not present:
        return nothing(material, "no bias: the toy is not regular, or the fit family was not evaluated", caption)
    layout = Layout(2, legend_of(present), height=max(270.0, 90.0 + 22 * len(present)), left=NAMES_LEFT)
    panels = [_bias_panel(layout, present, material.parameter), _star_panel(layout, present, material.parameter)]
    picture = layout.picture(panels, material, caption, lacking(material, present, "fits"))
    frame = panels[0].y.high
    beyond = [drawn.label for drawn in present if any(abs(cell.value or 0.0) > frame for cell in _biases(drawn, material.parameter))]
    notes = (f"bias beyond {frame:.2g} sigma, outside the frame: {', '.join(beyond)}",) if beyond else ()
    return replace(picture, notes=(*picture.notes, *notes))


def _bias_panel(layout: Layout, present: list[Drawn], parameter: str) -> Panel:
    lines = [(drawn, cells) for drawn in present if (cells := _biases(drawn, parameter))]
    sizes = [float(cell.at.get("n_events") or 0) for _, cells in lines for cell in cells]
    ends = [[abs(cell.value or 0.0) + (cell.stderr or 0.0) for cell in cells] for _, cells in lines]
    limit = 1.1 * min(_LARGEST, reach(ends, 2 * LIMIT))
    x = Scale(min(sizes, default=_FEWEST) / 1.6, max(sizes, default=1000.0) * 1.6, log=True)
    panel = Panel(layout.boxes[0], x, Scale(-limit, limit), "events", "bias [oracle sigma]")
    panel.area((x.low, x.high), (-LIMIT, LIMIT), Ink(), _SHADE)
    panel.rule(y=0.0)
    for order, (drawn, cells) in enumerate(lines):
        # Side by side, so that error bars at the same number of events do not hide each other.
        shift = 1 + 0.05 * (order - (len(lines) - 1) / 2)
        xs, ys = [float(cell.at.get("n_events") or 0) * shift for cell in cells], [cell.value or 0.0 for cell in cells]
        errors = [cell.stderr or math.nan for cell in cells]
        panel.line(xs, ys, bare(drawn.ink))
        low, high = ([y + sign * error for y, error in zip(ys, errors, strict=True)] for sign in (-1, 1))
        panel.points(xs, ys, low, high, drawn.ink)
    return panel


def _star_panel(layout: Layout, present: list[Drawn], parameter: str) -> Panel:
    stars = [(drawn, cell) for drawn in present if (cell := _n_star(drawn, parameter)) is not None]
    values = [min(max(cell.value or 1.0, _FEWEST), _MOST) for _, cell in stars]
    x = Scale(min([100.0, *values]) / 2, max([1000.0, *values]) * 4, log=True)
    names = tuple((float(len(stars) - k), shorten(drawn.label, NAME)) for k, (drawn, _) in enumerate(stars))
    panel = Panel(layout.boxes[1], x, Scale(0.4, len(stars) + 0.6, names=names), "n*, events at a bias of 0.2 sigma")
    for (at, _), (drawn, cell) in zip(names, stars, strict=True):
        value, error = cell.value or 0.0, cell.stderr or 0.0
        where = min(max(value, x.low), x.high)
        # n* is averaged in its logarithm, where its error is even.
        factor = math.exp(min(error / value, _WIDEST)) if value > 0 else 1.0
        panel.points_across([where], [at], [where / factor], [where * factor], drawn.ink)
        if cell.censored or not x.low <= value <= x.high:
            panel.arrow(where, at, drawn.ink, forward=cell.censored == "above" or value > x.high)
    return panel


def _biases(drawn: Drawn, parameter: str) -> list[Cell]:
    """Against the oracle, or against the truth where there is none."""
    found = next((cells for metric in BIASES if (cells := drawn.cells(metric, parameter=parameter))), [])
    return sorted((cell for cell in found if cell.at.get("n_events")), key=lambda cell: float(cell.at["n_events"] or 0))


def _n_star(drawn: Drawn, parameter: str) -> Cell | None:
    return next(iter(drawn.cells("fit/n_star", parameter=parameter)), None)
