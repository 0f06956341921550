"""Figures of a board: ranks with their intervals, performance profiles, cost against quality."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from touchneedle.reports.board_overview import BoardOverview
from touchneedle.reports.family_ranks import FamilyRanking
from touchneedle.reports.material import COLOURS, MARKERS, bare, shorten
from touchneedle.reports.panels import NAME, NAMES_LEFT, Box, Ink, Panel, figure_svg, grid, legend_lines
from touchneedle.reports.pareto import COSTS, Trade, trades
from touchneedle.reports.performance_profiles import FACTORS
from touchneedle.reports.picture import Picture
from touchneedle.reports.scales import Scale

MAX_LINES = 10
_BANDS = 4
_COLUMNS = {1: 1, 2: 2, 4: 2}


def draw_ranks(one: BoardOverview) -> Picture:
    """A panel per family: the rank and its interval as a bar."""
    ranked = [ranking for ranking in one.rankings if ranking.ranks]
    caption = "Marker: rank by the mean score; bar: its interval at 95 %. Who shares a letter cannot be told apart."
    if not ranked:
        return Picture("", ("no family is ranked",), caption=caption)
    most = max(len(ranking.ranks) for ranking in ranked)
    boxes, height = grid(len(ranked), _COLUMNS.get(len(ranked), 3), 80.0 + 19 * most, 0, NAMES_LEFT + 20)
    panels = []
    for box, ranking in zip(boxes, ranked, strict=True):
        names = tuple(
            (float(-k), f"{shorten(rank.contestant.label, NAME)}, {shorten(rank.group, 6)}") for k, rank in enumerate(ranking.ranks)
        )
        ticks = tuple((float(k), str(k)) for k in range(1, len(ranking.ranks) + 1, math.ceil(len(ranking.ranks) / 12)))
        panel = Panel(
            box, Scale(0.5, len(ranking.ranks) + 0.5, names=ticks), Scale(0.6 - most, 0.6, names=names), "rank", title=ranking.family
        )
        for (at, _), rank in zip(names, ranking.ranks, strict=True):
            panel.area((rank.low - 0.3, rank.high + 0.3), (at - 0.32, at + 0.32), Ink(COLOURS[0]), 0.2)
            panel.points([rank.rank], [at], [math.nan], [math.nan], Ink(COLOURS[0]))
        panels.append(panel)
    return Picture(figure_svg(panels, height, (), f"Ranks by family. {caption}"), caption=caption)


def draw_profiles(one: BoardOverview) -> Picture:
    """A panel per family: share of problems on which a contestant is within a factor of the best."""
    caption = (
        "Share of the numbers of a family, toys weighing the same, in which a method is within a factor of the best. "
        "Band, where few are drawn: one error."
    )
    found = [(ranking, one.profiles[ranking.family][:MAX_LINES]) for ranking in one.rankings]
    drawn = [(ranking, lines) for ranking, lines in found if lines]
    if not drawn:
        return Picture("", ("no family has numbers to compare",), caption=caption)
    inks = _inks(sorted({line.contestant.label for _, lines in drawn for line in lines}))
    legend = [(shorten(label), bare(ink)) for label, ink in inks.items()]
    boxes, height = grid(len(drawn), _COLUMNS.get(len(drawn), 3), 260, legend_lines(legend))
    factors = np.geomspace(1.0, FACTORS[-1], 46)
    ticks = tuple((factor, f"{factor:g}") for factor in FACTORS)
    panels = []
    for box, (ranking, lines) in zip(boxes, drawn, strict=True):
        panel = Panel(box, Scale(1.0, FACTORS[-1], log=True, names=ticks), Scale(0.0, 1.02), "factor of the best", "share", ranking.family)
        for line in lines:
            share, error = line.share(factors), line.stderr(factors)
            ink = bare(inks[line.contestant.label])
            if len(lines) <= _BANDS:
                panel.band(factors.tolist(), np.maximum(share - error, 0).tolist(), np.minimum(share + error, 1).tolist(), ink, 0.1)
            # A step where a problem comes within reach, not a slope towards it.
            panel.line(np.repeat(factors, 2)[1:].tolist(), np.repeat(share, 2)[:-1].tolist(), ink)
        panels.append(panel)
    notes = (f"the best {MAX_LINES} of each family are drawn",) if any(len(r.contestants) > MAX_LINES for r, _ in drawn) else ()
    return Picture(figure_svg(panels, height, legend, f"Performance profiles. {caption}"), notes, caption=caption)


def draw_pareto(one: BoardOverview) -> Picture:
    """Cost against the score of the first ranked family that is no cost, one panel for each cost; the front is a line."""
    caption = "Cost against score, with one standard error; up and left is better. Line: the front, whom nobody beats in both."
    ranking = next((ranking for ranking in one.rankings if ranking.ranks and ranking.family != "cost"), None)
    found = [(title, lines) for metric, title in COSTS if ranking and (lines := trades(one.board, ranking, metric))]
    if ranking is None or not found:
        return Picture("", ("no ranking to hold against cost",), caption=caption)
    inks = _inks([rank.contestant.label for rank in ranking.ranks[:MAX_LINES]])
    legend = [(shorten(label), ink) for label, ink in inks.items()]
    boxes, height = grid(len(found), 2, 290, legend_lines(legend))
    panels = [_pareto_panel(box, title, lines, ranking, inks) for box, (title, lines) in zip(boxes, found, strict=True)]
    notes = (f"the best {MAX_LINES} of {len(ranking.ranks)} have colours",) if len(ranking.ranks) > MAX_LINES else ()
    return Picture(figure_svg(panels, height, legend, f"Cost against quality. {caption}"), notes, caption=caption)


def _pareto_panel(box: Box, title: str, lines: Sequence[Trade], ranking: FamilyRanking, inks: dict[str, Ink]) -> Panel:
    count = len(ranking.ranks)
    costs = [trade.cost.value for trade in lines]
    ticks = tuple((float(k), str(k)) for k in range(1, count + 1, math.ceil(count / 10)))
    x = Scale(min(costs) / 2, max(costs) * 2, log=True, names=log_ticks(min(costs) / 2, max(costs) * 2))
    y = Scale(count + 0.5, 0.5, names=ticks)
    panel = Panel(box, x, y, title, f"score in {ranking.family}: expected rank")
    front = [trade for trade in lines if trade.front]
    panel.line([trade.cost.value for trade in front], [trade.rank.score for trade in front], Ink(width=1.0, dashes="4 3"))
    for trade in lines:
        ink = inks.get(trade.rank.contestant.label, Ink("#8a8f98"))
        cost, error = trade.cost.value, trade.cost.stderr or math.nan
        score, spread = trade.rank.score, trade.rank.stderr
        panel.points([cost], [score], [score - spread], [score + spread], ink)
        panel.points_across([cost], [score], [cost - error], [cost + error], ink)
    return panel


def log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Values with their texts on a logarithmic axis: powers of ten, and 2 and 5 times them where there is room."""
    factors = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return tuple((value, f"{value:,.15g}" if 1e-4 <= value < 1e6 else f"{value:.0e}") for value in values if low <= value <= high)


def _inks(labels: Sequence[str]) -> dict[str, Ink]:
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return {label: Ink(colour, marker=marker) for label, (colour, marker) in zip(labels, looks, strict=False)}
