"""Exact against learned: a likelihood scan of one frozen data set, and the error of log_ratio against the exact one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from touchneedle.reports.curves import Series
from touchneedle.reports.material import EXACT, Drawn, Material, bare
from touchneedle.reports.panels import Box, Panel
from touchneedle.reports.picture import Layout, Picture, lacking, legend_of, nothing
from touchneedle.reports.scales import MINUS, Scale, reach, span


def draw_scan(material: Material) -> Picture:
    """Likelihood scans on the left, median error of log_ratio with its 68 % band on the right; first seed of each row."""
    caption = (
        f"Exact (thick) against learned. Left: likelihood scan of {material.parameter or 'the parameter of interest'} for one frozen data "
        "set, nuisances at nominal. Right: median of learned minus exact log-ratio per bin, band from the 16 % to the 84 % quantile. "
        "First seed of each row."
    )
    present = [drawn for drawn in material.answers if _scan(drawn) or _ratio(drawn)]
    if not present:
        return nothing(material, "; ".join(lacking(material, present)) or "no curves", caption)
    exact = next((found for found in (drawn.first("scan", "exact") for drawn in material.rows) if found), None)
    legend = (*([("exact", EXACT)] if exact else []), *legend_of(present, lines=True))
    layout = Layout(2, legend, height=310)
    panels = [_scan_panel(layout.boxes[0], present, exact, material.parameter), _ratio_panel(layout.boxes[1], present)]
    return layout.picture(panels, material, caption, lacking(material, present))


def _scan(drawn: Drawn) -> Series | None:
    return drawn.first("scan", "estimator")


def _ratio(drawn: Drawn) -> Series | None:
    return drawn.first("ratio", "estimator")


def _scan_panel(box: Box, present: Sequence[Drawn], exact: Series | None, parameter: str) -> Panel:
    scans = [(drawn, found) for drawn in present if (found := _scan(drawn)) is not None]
    shown = [exact] if exact else [found for _, found in scans]
    xs = [x for found in shown for x in found.x]
    # The exact curve with some air, so that a hopeless answer leaves the frame.
    tops = [max((y for y in found.y if math.isfinite(y)), default=0.0) for found in shown]
    top = (1.4 if exact else 1.1) * max(tops, default=0.0) or 1.0
    label = f"{MINUS}2 \N{GREEK CAPITAL LETTER DELTA} ln L, one data set"
    panel = Panel(box, Scale(*span(xs, 0.02)), Scale(-0.04 * top, top), parameter or "parameter of interest", label)
    if exact:
        panel.line(exact.x, exact.y, EXACT)
    for drawn, found in scans:
        panel.line(found.x, found.y, bare(drawn.ink))
    return panel


def _ratio_panel(box: Box, present: Sequence[Drawn]) -> Panel:
    ratios = [(drawn, found) for drawn in present if (found := _ratio(drawn)) is not None]
    limit = 1.1 * reach([[*found.y, *found.low, *found.high] for _, found in ratios])
    xs = [x for _, found in ratios for x in found.x]
    panel = Panel(box, Scale(*span(xs, 0.02)), Scale(-limit, limit), "exact log r", f"learned {MINUS} exact log r")
    panel.rule(y=0.0)
    for drawn, found in ratios:
        if drawn.row.role != "control":
            panel.band(found.x, found.low, found.high, drawn.ink, 0.1)
        panel.line(found.x, found.y, bare(drawn.ink))
    return panel
