"""Closure of each feature: events reweighted by the learned ratio over events simulated where the weights lead."""

from __future__ import annotations

from touchneedle.reports.material import Drawn, Material, bare
from touchneedle.reports.panels import Box, Panel
from touchneedle.reports.picture import MAX_PANELS, Layout, Picture, lacking, legend_of, nothing
from touchneedle.reports.scales import Scale, reach, span


def draw_closure(material: Material) -> Picture:
    """One panel for each feature, with standard errors; first seed of each row."""
    caption = (
        "Closure of each feature: nominal events reweighted by the learned ratio over simulated ones, bins of equal mass, standard errors; "
        "1 is right. Events simulated are the same for all rows, so that they scatter together. First seed of each row."
    )
    present = [drawn for drawn in material.rows if drawn.series("closure")]
    if not present:
        return nothing(material, "no closure curves: supports differ, not evaluated, or records without such curves", caption)
    axes = list(dict.fromkeys(name for drawn in present for name in drawn.series("closure")))[:MAX_PANELS]
    layout = Layout(len(axes), legend_of(present), columns=2 if len(axes) != 3 else 3, height=280)
    panels = [_panel(box, axis, present) for box, axis in zip(layout.boxes, axes, strict=True)]
    return layout.picture(panels, material, caption, lacking(material, present))


def _panel(box: Box, axis: str, present: list[Drawn]) -> Panel:
    lines = [(drawn, found) for drawn in present if (found := drawn.first("closure", axis)) is not None]
    limit = 1.1 * reach([[v - 1 for v in (*found.y, *found.low, *found.high)] for _, found in lines])
    xs = [x for _, found in lines for x in found.x]
    panel = Panel(box, Scale(*span(xs, 0.06)), Scale(1 - limit, 1 + limit), axis, "reweighted / simulated")
    panel.rule(y=1.0)
    for drawn, found in lines:
        panel.line(found.x, found.y, bare(drawn.ink))
        panel.points(found.x, found.y, found.low, found.high, drawn.ink)
    return panel
