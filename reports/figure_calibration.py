"""Calibration: reliability of the ratio as a classifier, and ranks of the truth with their simultaneous bands."""

from __future__ import annotations

import math

from touchneedle.reports.curves import Series
from touchneedle.reports.material import Drawn, Material, bare
from touchneedle.reports.panels import Box, Ink, Panel
from touchneedle.reports.picture import Layout, Picture, lacking, legend_of, nothing
from touchneedle.reports.scales import MINUS, Scale, reach, span

BAND = Ink("currentColor", marker="")
TESTS = (
    ("sbc", "ranks of {parameter} (SBC)"),
    ("expected_coverage", "expected coverage"),
    ("pit", "events among the estimator's own (PIT)"),
)
_SMALLEST_REACH = 0.02
_LARGEST_ODDS = 8.0


def draw_calibration(material: Material) -> Picture:
    """Reliability, and three rank tests: distance of the ranks' distribution from a uniform one. First seed of each row."""
    caption = (
        "First panel: observed minus predicted log odds of theta against theta_0, 68 % errors. Others: cumulative ranks "
        "minus uniform; a right answer stays in the grey band, everywhere at once, in 95 % of all cases. First seed of each row."
    )
    present = [drawn for drawn in material.rows if drawn.series("reliability") or any(drawn.series(curve) for curve, _ in TESTS)]
    if not present:
        return nothing(material, "no calibration curves: not evaluated, or records without curves", caption)
    layout = Layout(1 + len(TESTS), legend_of(present), height=270)
    panels = [_reliability(layout.boxes[0], present)]
    for box, (curve, title) in zip(layout.boxes[1:], TESTS, strict=True):
        panels.append(_ranks(box, present, curve, title.format(parameter=material.parameter or "theta"), material.parameter))
    return layout.picture(panels, material, caption, lacking(material, present))


def _reliability(box: Box, present: list[Drawn]) -> Panel:
    lines = [(drawn, found) for drawn in present if (found := drawn.first("reliability", next(iter(drawn.series("reliability")), "")))]
    gaps = [[y - x for x, y in zip(found.x, found.y, strict=True)] for _, found in lines]
    limit = 1.2 * reach(gaps)
    xs = [x for _, found in lines for x in found.x]
    left, right = span(xs, 0.05)
    x = Scale(max(left, -_LARGEST_ODDS), min(right, _LARGEST_ODDS))
    panel = Panel(box, x, Scale(-limit, limit), "predicted log odds", f"observed {MINUS} predicted", "reliability")
    panel.rule(y=0.0)
    for drawn, found in lines:
        gap, low, high = ([v - x for x, v in zip(found.x, values, strict=True)] for values in (found.y, found.low, found.high))
        panel.line(found.x, gap, bare(drawn.ink))
        panel.points(found.x, gap, low, high, drawn.ink)
    return panel


def _ranks(box: Box, present: list[Drawn], curve: str, title: str, parameter: str) -> Panel:
    lines = [(drawn, found) for drawn in present if (found := _chosen(drawn, curve, parameter)) is not None]
    limit = 1.25 * max(reach([found.y for _, found in lines], _SMALLEST_REACH), reach([found.high for _, found in lines], _SMALLEST_REACH))
    panel = Panel(box, Scale(0.0, 1.0), Scale(-limit, limit), "rank", f"ECDF {MINUS} uniform", title)
    panel.rule(y=0.0)
    if lines:
        # That of the row with the fewest pairs.
        widest = max((found for _, found in lines), key=lambda found: max(found.high, default=0.0))
        panel.band(widest.x, widest.low, widest.high, BAND)
    for drawn, found in lines:
        panel.line(found.x, found.y, bare(drawn.ink))
        marked = [k for k in range(len(found.x)) if k % 8 == 4]
        nowhere = [math.nan] * len(marked)
        panel.points([found.x[k] for k in marked], [found.y[k] for k in marked], nowhere, nowhere, drawn.ink)
    return panel


def _chosen(drawn: Drawn, curve: str, parameter: str) -> Series | None:
    """The curve of the largest sets; of the parameter of interest (SBC), of the density (PIT)."""
    names = drawn.series(curve)
    if curve == "sbc":
        names = [name for name in names if name.partition(", ")[0] == parameter] or names[:1]
    return drawn.first(curve, names[-1]) if names else None
