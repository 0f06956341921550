"""Slices through log_ratio, exact against learned: one feature moves, the others stay at the most central event."""

from __future__ import annotations

from collections.abc import Sequence

from touchneedle.reports.curves import Series, averaged, parts
from touchneedle.reports.material import EXACT, Drawn, Material, bare
from touchneedle.reports.panels import Panel
from touchneedle.reports.picture import MAX_PANELS, Layout, Picture, lacking, legend_of, nothing
from touchneedle.reports.scales import Scale, span


def draw_slices(material: Material) -> Picture:
    """One panel for each feature; mean over seeds, band of one standard deviation between trainings."""
    caption = (
        "Slices of the log-ratio along each feature, the others at the most central event: exact (thick) against learned, mean over seeds; "
        "the band is the standard deviation between trainings."
    )
    present = [drawn for drawn in material.answers if drawn.series("slice")]
    if not present:
        return nothing(material, "no slices: records without curves, or from before slices were written", caption)
    axes = list(dict.fromkeys(parts(name)[1:] for drawn in present for name in drawn.series("slice")))[:MAX_PANELS]
    known = any(parts(name)[0] == "exact" for drawn in present for name in drawn.series("slice"))
    legend = (*([("exact", EXACT)] if known else []), *legend_of(present, lines=True))
    layout = Layout(len(axes), legend, columns=3, height=290)
    exact = [_exact(present, *axis) for axis in axes]
    learned = [[(d, averaged(seeds)) for d in present if (seeds := d.each("slice", f"estimator, {axis}, {at}"))] for axis, at in axes]
    y = _height([each for each in exact if each] or [each for lines in learned for _, each in lines])
    panels = []
    for box, (axis, place), truth, lines in zip(layout.boxes, axes, exact, learned, strict=True):
        xs = [x for _, each in lines for x in each.x]
        panel = Panel(box, Scale(*span(xs, 0.02)), y, axis, f"log r, {place.replace('=', ' = ')}")
        if truth:
            panel.line(truth.x, truth.y, EXACT)
        for drawn, found in lines:
            panel.band(found.x, found.low, found.high, drawn.ink)
            panel.line(found.x, found.y, bare(drawn.ink))
        panels.append(panel)
    return layout.picture(panels, material, caption, lacking(material, present))


def _height(shown: Sequence[Series]) -> Scale:
    """The same for all features, so that a flat one looks flat."""
    return Scale(*span([y for series in shown for y in series.y], 0.35))


def _exact(present: Sequence[Drawn], axis: str, place: str) -> Series | None:
    found = [drawn.first("slice", f"exact, {axis}, {place}") for drawn in present]
    return next((series for series in found if series), None)
