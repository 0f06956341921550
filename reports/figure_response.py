"""Response to nuisances: mean log_ratio of events that a nuisance makes more likely, and less likely, as it moves."""

from __future__ import annotations

from touchneedle.reports.curves import Series, averaged, parts
from touchneedle.reports.material import EXACT, Drawn, Material, bare
from touchneedle.reports.panels import Box, Panel
from touchneedle.reports.picture import MAX_PANELS, Layout, Picture, lacking, legend_of, nothing
from touchneedle.reports.scales import Scale, span

WAYS = ("up", "down")


def draw_responses(material: Material) -> Picture:
    """One panel for each nuisance; mean over seeds, band of one standard deviation between them, or the error of the only one."""
    caption = (
        "Mean log-ratio against each nuisance, of the tenth of the nominal events that it makes most likely (rising) and least likely "
        "(falling): exact (thick) against learned; the band is the standard deviation between trainings, of one training the error of the "
        "difference."
    )
    present = [drawn for drawn in material.answers if drawn.series("response")]
    if not present:
        return nothing(material, "no responses: a toy without nuisances that change its shape, or records without such curves", caption)
    axes = list(dict.fromkeys(parts(name)[1] for drawn in present for name in drawn.series("response")))[:MAX_PANELS]
    known = any(parts(name)[0] == "exact" for drawn in present for name in drawn.series("response"))
    legend = (*([("exact", EXACT)] if known else []), *legend_of(present, lines=True))
    layout = Layout(len(axes), legend, columns=min(3, len(axes)) if len(axes) != 4 else 2, height=290)
    panels = [_panel(box, axis, present) for box, axis in zip(layout.boxes, axes, strict=True)]
    return layout.picture(panels, material, caption, lacking(material, present))


def _panel(box: Box, axis: str, present: list[Drawn]) -> Panel:
    exact = [found for way in WAYS if (found := _exact(present, f"exact, {axis}, {way}"))]
    learned = [(d, averaged(seeds)) for d in present for way in WAYS if (seeds := d.each("response", f"estimator, {axis}, {way}"))]
    shown = exact or [found for _, found in learned]
    x, y = span([x for found in shown for x in found.x], 0.02), span([y for found in shown for y in found.y], 0.3)
    panel = Panel(box, Scale(*x), Scale(*y), axis, "mean log r")
    panel.rule(y=0.0, dashes="3 3")
    for truth in exact:
        panel.line(truth.x, truth.y, EXACT)
    for drawn, found in learned:
        panel.band(found.x, found.low, found.high, drawn.ink)
        panel.line(found.x, found.y, bare(drawn.ink))
    return panel


def _exact(present: list[Drawn], series: str) -> Series | None:
    found = [drawn.first("response", series) for drawn in present]
    return next((each for each in found if each), None)
