"""Panels of a figure as inline SVG: axes, lines, bands, points with error bars, a legend.

Written directly, because a page holds hundreds of them: a figure takes milliseconds and some kilobytes, its text is text, and
its bytes depend on its numbers alone. Ink is the page's colour for text (``--figure-ink``), the ground is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from touchneedle.reports.outline import outline
from touchneedle.reports.scales import Scale

WIDTH = 1000
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 26, 44
LEGEND_LINE = 18
# Room for names of rows beside a panel, in pixels and in letters.
NAMES_LEFT, NAME = 182, 27
_INK = "var(--figure-ink, #1c2330)"


@dataclass(frozen=True)
class Ink:
    """How a series looks: colour, dashes (SVG ``stroke-dasharray``), marker (``o``, ``s``, ``^``, ``d``) and line width."""

    colour: str = "currentColor"
    dashes: str = ""
    marker: str = "o"
    width: float = 1.6


@dataclass(frozen=True)
class Box:
    """Where the data of a panel go, in pixels."""

    left: float
    top: float
    width: float
    height: float


def grid(count: int, columns: int, height: float, legend: int, left: float = LEFT) -> tuple[list[Box], float]:
    """Boxes of panels in rows, ``height`` pixels each with their texts, and the height of the figure with ``legend`` lines.

    ``left`` pixels are kept for the ticks and the label of y.
    """
    columns = min(columns, max(1, count))
    width = WIDTH / columns
    boxes = [
        Box(width * (k % columns) + left, height * (k // columns) + TOP, width - left - RIGHT, height - TOP - BOTTOM) for k in range(count)
    ]
    return boxes, height * math.ceil(count / columns) + LEGEND_LINE * legend + 6


@dataclass
class Panel:
    """One pair of axes; what is drawn beyond them is cut off."""

    box: Box
    x: Scale
    y: Scale
    x_label: str = ""
    y_label: str = ""
    title: str = ""
    parts: list[str] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float], ink: Ink) -> None:
        """A line through the points, interrupted where one has no place."""
        path = " ".join(outline(run) for run in self._runs(xs, ys) if len(run) > 1)
        if path:
            dashes = f' stroke-dasharray="{ink.dashes}"' if ink.dashes else ""
            self.parts.append(f'<path d="{path}" fill="none" stroke="{ink.colour}" stroke-width="{ink.width:g}"{dashes}/>')

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], ink: Ink, opacity: float = 0.16) -> None:
        """The area between two lines."""
        known = [(x, a, b) for x, a, b in zip(xs, low, high, strict=True) if all(map(math.isfinite, (x, a, b)))]
        if len(known) > 1:
            there, back = [(x, b) for x, _, b in known], [(x, a) for x, a, _ in reversed(known)]
            path = outline([self._place(x, y) for x, y in there + back])
            self.parts.append(f'<path d="{path}Z" fill="{ink.colour}" fill-opacity="{opacity:g}"/>')

    def points(self, xs: Sequence[float], ys: Sequence[float], low: Sequence[float], high: Sequence[float], ink: Ink) -> None:
        """Markers with vertical error bars; an end of a bar that is not a number is left out."""
        bars, marks = [], []
        for x, y, a, b in zip(xs, ys, low, high, strict=True):
            across, down = self._place(x, y)
            if math.isfinite(across) and math.isfinite(down):
                marks.append(_mark(ink.marker, across, down))
                ends = [self._place(x, end)[1] for end in (a, b)]
                bars += [f"M{across:.1f} {ends[0]:.1f}V{ends[1]:.1f}"] if all(map(math.isfinite, ends)) else []
        self._bars_and_marks(bars, marks, ink)

    def points_across(self, xs: Sequence[float], ys: Sequence[float], low: Sequence[float], high: Sequence[float], ink: Ink) -> None:
        """Markers with horizontal error bars from ``low`` to ``high``."""
        bars, marks = [], []
        for x, y, a, b in zip(xs, ys, low, high, strict=True):
            across, down = self._place(x, y)
            if math.isfinite(across) and math.isfinite(down):
                marks.append(_mark(ink.marker, across, down))
                ends = [self._place(end, y)[0] for end in (a, b)]
                bars += [f"M{ends[0]:.1f} {down:.1f}H{ends[1]:.1f}"] if all(map(math.isfinite, ends)) else []
        self._bars_and_marks(bars, marks, ink)

    def area(self, x: tuple[float, float], y: tuple[float, float], ink: Ink, opacity: float = 0.14) -> None:
        """A filled rectangle."""
        (left, bottom), (right, top) = self._place(x[0], y[0]), self._place(x[1], y[1])
        if all(map(math.isfinite, (left, bottom, right, top))):
            self.parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
                f'fill="{ink.colour}" fill-opacity="{opacity:g}"/>'
            )

    def steps(self, edges: Sequence[float], heights: Sequence[float], ink: Ink, opacity: float = 0.28) -> None:
        """A filled histogram over ``edges``, one more than heights; not drawn where one of them is not a number."""
        if not all(map(math.isfinite, (*edges, *heights))):
            return
        bottom = self._place(edges[0], max(0.0, self.y.low))[1]
        places = [self._place(edge, height) for edge, height in zip(edges, (*heights, heights[-1]), strict=True)]
        path = f"M{places[0][0]:.1f} {bottom:.1f}" + "".join(f"V{here[1]:.1f}H{there[0]:.1f}" for here, there in pairwise(places))
        self.parts.append(f'<path d="{path}V{bottom:.1f}z" fill="{ink.colour}" fill-opacity="{opacity:g}"/>')

    def rule(self, *, x: float | None = None, y: float | None = None, dashes: str = "") -> None:
        """A straight line across the panel, at x or at y."""
        ends = [(x, self.y.low), (x, self.y.high)] if x is not None else [(self.x.low, y), (self.x.high, y)]
        self.line([a for a, _ in ends if a is not None], [b for _, b in ends if b is not None], Ink(dashes=dashes, width=1.1))

    def arrow(self, x: float, y: float, ink: Ink, *, forward: bool) -> None:
        """A small arrow beside a point, to the right or to the left: the value lies there."""
        across, down = self._place(x, y)
        if not (math.isfinite(across) and math.isfinite(down)):
            return
        way = 1 if forward else -1
        path = f"M{across + 6 * way:.1f} {down:.1f}h{14 * way}m{-5 * way}-4l{5 * way} 4l{-5 * way} 4"
        self.parts.append(f'<path d="{path}" fill="none" stroke="{ink.colour}" stroke-width="1.6"/>')

    def note(self, text: str, line: int = 0) -> None:
        """Small text in the upper left corner, in one of several lines."""
        self.parts.append(f'<text x="6" y="{13 + 15 * line}">{escape(text)}</text>')

    def svg(self) -> str:
        """The panel: grid, data, frame, ticks and labels."""
        b = self.box
        inner = "".join(self.parts)
        grid_lines, texts = self._ticks()
        frame = f"M{b.left:.1f} {b.top:.1f}v{b.height:.1f}h{b.width:.1f}"
        middle = b.left + b.width / 2
        return (
            f'<path d="{grid_lines}" stroke="currentColor" stroke-opacity=".13"/>'
            f'<svg x="{b.left:.1f}" y="{b.top:.1f}" width="{b.width:.1f}" height="{b.height:.1f}">{inner}</svg>'
            f'<path d="{frame}" fill="none" stroke="currentColor"/>{texts}'
            + _text(middle, b.top + b.height + 33, self.x_label)
            + _text(middle, b.top - 9, self.title, "bold")
            + _upright(b.left - 54, b.top + b.height / 2, self.y_label)
        )

    def _ticks(self) -> tuple[str, str]:
        b = self.box
        lines, texts = [], []
        for value, name in self.x.ticks():
            at = b.left + b.width * self.x.share(value)
            lines.append(f"M{at:.1f} {b.top:.1f}v{b.height:.1f}")
            texts.append(_text(at, b.top + b.height + 16, name))
        for value, name in self.y.ticks():
            at = b.top + b.height * (1 - self.y.share(value))
            lines.append(f"M{b.left:.1f} {at:.1f}h{b.width:.1f}")
            texts.append(f'<text x="{b.left - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        return "".join(lines), "".join(texts)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return self.box.width * self.x.share(x), self.box.height * (1 - self.y.share(y))

    def _runs(self, xs: Sequence[float], ys: Sequence[float]) -> list[list[tuple[float, float]]]:
        runs: list[list[tuple[float, float]]] = [[]]
        for point in (self._place(x, y) for x, y in zip(xs, ys, strict=True)):
            if all(map(math.isfinite, point)):
                runs[-1].append(point)
            elif runs[-1]:
                runs.append([])
        return runs

    def _bars_and_marks(self, bars: Sequence[str], marks: Sequence[str], ink: Ink) -> None:
        if bars:
            self.parts.append(f'<path d="{"".join(bars)}" stroke="{ink.colour}" stroke-width="1.2"/>')
        if marks:
            self.parts.append(_marks("".join(marks), ink))


def figure_svg(panels: Sequence[Panel], height: float, legend: Sequence[tuple[str, Ink]], description: str) -> str:
    """The whole figure; ``legend`` stands below in columns, ``description`` is what a screen reader says."""
    columns = legend_columns(legend)
    top = height - LEGEND_LINE * math.ceil(len(legend) / columns)
    entries = [
        _legend_entry(WIDTH / columns * (k % columns) + 12, top + LEGEND_LINE * (k // columns), name, ink)
        for k, (name, ink) in enumerate(legend)
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(description)}" style="color:{_INK}" '
        f'fill="currentColor" font-family="system-ui,sans-serif" font-size="11.5">'
        f"{''.join(panel.svg() for panel in panels)}{''.join(entries)}</svg>"
    )


def legend_columns(legend: Sequence[tuple[str, Ink]]) -> int:
    """Columns of a legend: as many as its longest name allows."""
    longest = max((len(name) for name, _ in legend), default=1)
    return max(1, min(5, int(WIDTH / (54 + 6.6 * longest))))


def legend_lines(legend: Sequence[tuple[str, Ink]]) -> int:
    """Lines that a legend takes."""
    return math.ceil(len(legend) / legend_columns(legend))


def _mark(marker: str, x: float, y: float) -> str:
    shapes = {"s": (-3.0, -3.0, "h6v6h-6z"), "^": (0.0, -4.0, "l4 7h-8z"), "d": (0.0, -4.5, "l4 4.5-4 4.5-4-4.5z")}
    dx, dy, shape = shapes.get(marker, (0.0, 0.0, "h0"))
    return f"M{x + dx:.1f} {y + dy:.1f}{shape}"


def _marks(path: str, ink: Ink) -> str:
    # A round cap on a line without length is the shortest circle there is.
    look = f'fill="{ink.colour}"' if ink.marker in "s^d" else f'stroke="{ink.colour}" stroke-width="6.6" stroke-linecap="round"'
    return f'<path d="{path}" {look}/>'


def _text(x: float, y: float, text: str, weight: str = "") -> str:
    extra = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle"{extra}>{escape(text)}</text>' if text else ""


def _upright(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f} {y:.1f})rotate(-90)" text-anchor="middle">{escape(text)}</text>' if text else ""


def _legend_entry(x: float, y: float, name: str, ink: Ink) -> str:
    dashes = f' stroke-dasharray="{ink.dashes}"' if ink.dashes else ""
    line = f'<path d="M{x:.1f} {y:.1f}h26" stroke="{ink.colour}" stroke-width="{max(2.0, ink.width):g}"{dashes}/>'
    mark = _marks(_mark(ink.marker, x + 13, y), ink) if ink.marker else ""
    return f'{line}{mark}<text x="{x + 32:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
