"""The figure of learning curves: one panel per toy, badness against the number of training events, both logarithmic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from touchneedle.reports.learning_curves import LearningCurve
from touchneedle.reports.material import COLOURS, MARKERS, shorten
from touchneedle.reports.overview_figures import log_ticks
from touchneedle.reports.panels import Box, Ink, Panel, figure_svg, grid, legend_lines
from touchneedle.reports.picture import Picture
from touchneedle.reports.ranking import size_of
from touchneedle.reports.scales import Scale

MAX_LINES = 10
_COLUMNS = 3


def draw_curves(curves: Sequence[LearningCurve]) -> Picture:
    """A panel per toy and metric; methods keep their colour."""
    caption = "Badness of the primary number against training events, with one standard error; lower is better. For n* it is 1 / n*."
    if not curves:
        return Picture("", ("nothing was run at two budgets",), caption=caption)
    labels = sorted({_name(curve) for curve in curves})
    inks = {
        label: Ink(colour, marker=marker)
        for label, colour, marker in zip(labels[:MAX_LINES], itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    }
    groups: dict[tuple[int, str], list[LearningCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.index, curve.metric), []).append(curve)
    legend = [(shorten(label), ink) for label, ink in inks.items()]
    boxes, height = grid(len(groups), _COLUMNS, 250, legend_lines(legend))
    panels = [_panel(box, lines, inks) for box, lines in zip(boxes, groups.values(), strict=True)]
    notes = (f"the first {MAX_LINES} of {len(labels)} methods are drawn",) if len(labels) > MAX_LINES else ()
    return Picture(figure_svg(panels, height, legend, f"Learning curves. {caption}"), notes, caption=caption)


def _panel(box: Box, curves: Sequence[LearningCurve], inks: dict[str, Ink]) -> Panel:
    first = curves[0]
    numbers = [(point.n_train, *size_of(point.cell)) for curve in curves for point in curve.points]
    known = [bad for _, bad, _ in numbers if 1e-300 < bad < 1e300]
    budgets = [n for n, _, _ in numbers]
    low, high = (min(known) / 2, max(known) * 2) if known else (0.1, 1.0)
    y = Scale(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), log=True)
    title = f"{shorten(first.toy, 26)}: {'1 / n*' if first.metric == 'fit/n_star' else first.title}"
    ends = min(budgets) / 1.5, max(budgets) * 1.5
    panel = Panel(box, Scale(*ends, log=True, names=log_ticks(*ends)), y, "training events", title=title)
    for curve in curves:
        ink = inks.get(_name(curve))
        if ink is not None:
            xs, values = [point.n_train for point in curve.points], [size_of(point.cell) for point in curve.points]
            panel.line(xs, [bad for bad, _ in values], Ink(ink.colour, marker=""))
            panel.points(xs, [b for b, _ in values], [max(b - e, y.low) for b, e in values], [b + e for b, e in values], ink)
    return panel


def _name(curve: LearningCurve) -> str:
    return curve.label if curve.design == "prior" else f"{curve.label} ({curve.design})"
