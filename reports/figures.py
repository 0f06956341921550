"""One figure per table, exact against learned, as inline SVG: a likelihood scan and the log-ratio error.

The bytes depend on the curves alone: no date, a fixed hash salt, text as paths, ids renamed per figure.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow
import pyarrow.parquet
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from touchneedle.reports.rows import Problem, Row

MAX_CURVES = 10
MAX_POINTS = 200
_FONT = "DejaVu Sans"
_STYLE: Any = {
    "svg.hashsalt": "touchneedle",
    "svg.fonttype": "path",
    "font.family": _FONT,
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "path.simplify": True,
    "text.parse_math": False,
}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8b6508", "#56b4e9", "#7b3fbf", "#e69f00", "#b22222", "#5a7d2a")
_CONTROL_COLOUR = "#8c8c8c"
_DASHES = {"control": (0, (4, 2)), "baseline": (0, (1, 1.2)), "entry": "-"}


@dataclass
class Series:
    """Points of one series of one curve; ``low`` and ``high`` are NaN where there is no band."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


Curves = dict[tuple[str, str], Series]


@dataclass(frozen=True)
class Drawn:
    """A row with its style and the curves of its first seed."""

    row: Row
    curves: Curves
    colour: str
    dashes: Any


@dataclass(frozen=True)
class Picture:
    """An SVG (empty if there are no curves), notes on what is missing, and files that could not be read."""

    svg: str
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def draw(rows: Sequence[Row], parameter: str, prefix: str) -> Picture:
    """The figure of a table's rows in their order; ``prefix`` keeps ids of several figures on a page apart."""
    problems: list[Problem] = []
    found = [(row, _curves_of(row, problems)) for row in rows if row.estimator != "oracle"]
    missing = [row.label for row, curves in found if not _drawable(curves)]
    present = [(row, curves) for row, curves in found if _drawable(curves)]
    notes = [f"no curves: {', '.join(missing)}"] if missing else []
    if len(present) > MAX_CURVES:
        notes.append(f"the first {MAX_CURVES} of {len(present)} rows with curves are drawn")
    drawn = _styled(present[:MAX_CURVES])
    svg = _svg(drawn, parameter, prefix) if drawn else ""
    return Picture(svg, tuple(notes), tuple(problems))


def read_curves(path: Path) -> Curves:
    """Curves of a run by (curve, series), thinned to `MAX_POINTS`; raises OSError or ValueError if unreadable."""
    table = pyarrow.parquet.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in ("curve", "series", "x", "y")}
    for name in ("low", "high"):
        columns[name] = table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows
    curves: Curves = {}
    for curve, series, *numbers in zip(*columns.values(), strict=True):
        points = curves.setdefault((str(curve), str(series)), Series())
        for values, number in zip((points.x, points.y, points.low, points.high), numbers, strict=True):
            values.append(math.nan if number is None else float(number))
    return {key: _thinned(series) for key, series in curves.items()}


def _curves_of(row: Row, problems: list[Problem]) -> Curves:
    path = next((run.curves for run in row.runs if run.curves.is_file()), None)
    if path is None:
        return {}
    try:
        return read_curves(path)
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problems.append(Problem(f"{path.parent.name}/{path.name}", f"curves are unreadable ({reason}); run again"))
        return {}


def _drawable(curves: Curves) -> bool:
    return ("scan", "estimator") in curves or ("ratio", "estimator") in curves


def _styled(rows: Sequence[tuple[Row, Curves]]) -> list[Drawn]:
    drawn, used = [], 0
    for row, curves in rows:
        if row.role == "control":
            colour = _CONTROL_COLOUR
        else:
            colour, used = _COLOURS[used % len(_COLOURS)], used + 1
        drawn.append(Drawn(row, curves, colour, _DASHES[row.role]))
    controls = [k for k, item in enumerate(drawn) if item.row.role == "control"]
    for order, k in enumerate(controls):
        drawn[k] = Drawn(drawn[k].row, drawn[k].curves, _CONTROL_COLOUR, (0, (4 - order, 1.5 + order / 2)))
    return drawn


def _svg(drawn: Sequence[Drawn], parameter: str, prefix: str) -> str:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(10.0, 3.5 + 0.18 * (len(drawn) // 4)))
        left, right = figure.subplots(1, 2)
        handles = _draw_scans(left, drawn, parameter)
        _draw_ratios(right, drawn)
        labels = [literal(handle.get_label()) for handle in handles]
        figure.tight_layout(rect=(0, 0.02 + 0.05 * math.ceil(len(handles) / 4), 1, 1))
        figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return clean_svg(buffer.getvalue(), prefix)


def _draw_scans(axes: Any, drawn: Sequence[Drawn], parameter: str) -> list[Any]:
    handles = []
    exact = next((item.curves["scan", "exact"] for item in drawn if ("scan", "exact") in item.curves), None)
    if exact is not None:
        handles += axes.plot(exact.x, exact.y, color="black", linewidth=2.4, label="exact")
    for item in drawn:
        series = item.curves.get(("scan", "estimator"), Series())
        handles += axes.plot(series.x, series.y, color=item.colour, linestyle=item.dashes, linewidth=1.4, label=shorten(item.row.label))
    top = _scan_top(exact, drawn)
    if top > 0:
        axes.set_ylim(-0.04 * top, top)
    axes.set_xlabel(literal(parameter or "parameter of interest"))
    axes.set_ylabel("\N{MINUS SIGN}2 \N{GREEK CAPITAL LETTER DELTA} ln L, one data set")
    return handles


def _draw_ratios(axes: Any, drawn: Sequence[Drawn]) -> None:
    axes.axhline(0.0, color="black", linewidth=2.0)
    for item in drawn:
        series = item.curves.get(("ratio", "estimator"))
        if series is None:
            continue
        if item.row.role != "control":
            axes.fill_between(series.x, series.low, series.high, color=item.colour, alpha=0.13, linewidth=0)
        axes.plot(series.x, series.y, color=item.colour, linestyle=item.dashes, linewidth=1.4)
    limit = _ratio_limit(drawn)
    if limit > 0:
        axes.set_ylim(-limit, limit)
    axes.set_xlabel("exact log r")
    axes.set_ylabel("learned \N{MINUS SIGN} exact log r")


def _scan_top(exact: Series | None, drawn: Sequence[Drawn]) -> float:
    """Height of the scan panel: the exact curve with some air, so that a hopeless answer leaves the frame."""
    if exact is not None:
        return 1.4 * max((y for y in exact.y if math.isfinite(y)), default=0.0)
    tops = [max((y for y in item.curves.get(("scan", "estimator"), Series()).y if math.isfinite(y)), default=0.0) for item in drawn]
    return 1.1 * max(tops, default=0.0)


def _ratio_limit(drawn: Sequence[Drawn]) -> float:
    """Half height of the ratio panel: the widest band, but at most four times the median one."""
    reach = []
    for item in drawn:
        series = item.curves.get(("ratio", "estimator"), Series())
        sizes = [abs(v) for v in (*series.y, *series.low, *series.high) if math.isfinite(v)]
        if sizes:
            reach.append(max(sizes))
    reach.sort()
    return 1.1 * min(reach[-1], 4 * reach[len(reach) // 2]) if reach else 0.0


def shorten(text: str, limit: int = 36) -> str:
    """Text that fits a legend."""
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def literal(text: str) -> str:
    """Text that matplotlib shows as it is: no leading underscore, ``?`` where the font has no glyph."""
    plain = "".join(c if ord(c) in _glyphs() else "?" for c in text)
    return " " + plain if plain.startswith("_") else plain


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def clean_svg(svg: str, prefix: str) -> str:
    """The bare ``<svg>`` element: no prologue, comments, metadata or namespaces, ids only where they are used."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    return re.sub(r">\s+<", ">\n<", svg).strip()


def _thinned(series: Series) -> Series:
    step = max(1, math.ceil(len(series.x) / MAX_POINTS))
    return Series(series.x[::step], series.y[::step], series.low[::step], series.high[::step])
