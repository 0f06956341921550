"""``summary.json``: ranks, intervals, groups and what follows from them, for programs.

The layout is versioned: a field is never renamed or given another meaning without a new ``schema_version``. Numbers have full
precision; infinities are the strings ``Infinity`` and ``-Infinity``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from touchneedle.reports.board_overview import BoardOverview
from touchneedle.reports.boards import Board, ToyKey
from touchneedle.reports.conclusions import Conclusion
from touchneedle.reports.family_ranks import FamilyRanking, Rank
from touchneedle.reports.learning_curves import LearningCurve
from touchneedle.reports.overview import Overview
from touchneedle.reports.pairwise import LEVEL
from touchneedle.reports.pareto import COSTS, Trade, trades
from touchneedle.reports.performance_profiles import FACTORS, Profile

SUMMARY_VERSION = 1


def to_summary(overview: Overview) -> str:
    """The summary as indented JSON."""
    content = {
        "schema_version": SUMMARY_VERSION,
        "level": 1 - LEVEL,
        "conclusions": [_conclusion(one) for one in overview.conclusions],
        "boards": [_board(one) for one in overview.boards],
        "learning_curves": [_curve(curve) for curve in overview.curves],
        "changes": None if overview.changes is None else {**asdict(overview.changes), "expected": overview.changes.expected},
    }
    return json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Nested values with non-finite numbers as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _conclusion(one: Conclusion) -> dict[str, Any]:
    evidence = [{"text": text, "anchor": anchor} for text, anchor in one.evidence]
    return {"question": one.question, "told": one.told, "text": one.text, "evidence": evidence}


def _curve(curve: LearningCurve) -> dict[str, Any]:
    return {
        "toy": curve.toy,
        "label": curve.label,
        "design": curve.design,
        "metric": curve.metric,
        "points": [
            {"n_train": p.n_train, "value": p.cell.value, "stderr": p.cell.stderr, "censored": p.cell.censored} for p in curve.points
        ],
        "slope": curve.slope,
        "stderr": curve.stderr,
    }


def _board(one: BoardOverview) -> dict[str, Any]:
    board = one.board
    return {
        "anchor": one.anchor,
        "budget": board.budget,
        "n_train": board.n_train,
        "design": board.design,
        "evaluation": board.evaluation,
        "track": board.track,
        "toys": [_toy(toy) for toy in sorted(board.toys)],
        "contestants": [
            {
                "label": contestant.label,
                "estimator": contestant.estimator,
                "runs": one.tallies[contestant.key].runs,
                "failed": one.tallies[contestant.key].failed,
                "gates": one.tallies[contestant.key].gates,
            }
            for contestant in board.contestants
        ],
        "families": [{**_ranking(ranking), "profiles": _profiles(one.profiles[ranking.family])} for ranking in one.rankings],
        "trades": [trade for ranking in one.rankings for trade in _trades(board, ranking)],
    }


def _profiles(found: Sequence[Profile]) -> list[dict[str, Any]]:
    return [
        {
            "label": one.contestant.label,
            "within": [
                {"factor": factor, "share": float(share), "stderr": None if math.isnan(error) else float(error)}
                for factor, share, error in zip(FACTORS, one.share(FACTORS), one.stderr(FACTORS), strict=True)
            ],
        }
        for one in found
    ]


def _trades(board: Board, ranking: FamilyRanking) -> list[dict[str, Any]]:
    if ranking.family == "cost":
        return []
    return [_trade(ranking, metric, trade) for metric, _ in COSTS for trade in trades(board, ranking, metric)]


def _trade(ranking: FamilyRanking, metric: str, trade: Trade) -> dict[str, Any]:
    return {
        "label": trade.rank.contestant.label,
        "family": ranking.family,
        "score": trade.rank.score,
        "metric": metric,
        "cost": trade.cost.value,
        "stderr": trade.cost.stderr,
        "front": trade.front,
        "dominated_by": list(trade.dominated_by),
    }


def _ranking(ranking: FamilyRanking) -> dict[str, Any]:
    labels = [rank.contestant.label for rank in ranking.ranks]
    return {
        "family": ranking.family,
        "toys": [_toy(toy) for toy in ranking.toys],
        "toys_left_out": [_toy(toy) for toy in ranking.toys_left_out],
        "metrics": list(ranking.metrics),
        "lacking": list(ranking.lacking),
        "ranks": [_rank(rank) for rank in ranking.ranks],
        "differences": [
            {"better": labels[d.better], "worse": labels[d.worse], "value": d.value, "stderr": d.stderr, "p_value": d.p_value}
            for d in ranking.differences
        ],
        "unranked": [{"label": one.label, "reason": why} for one, why in ranking.unranked],
    }


def _rank(rank: Rank) -> dict[str, Any]:
    return {
        "label": rank.contestant.label,
        "score": rank.score,
        "stderr": rank.stderr,
        "rank": rank.rank,
        "interval": [rank.low, rank.high],
        "group": rank.group,
    }


def _toy(toy: ToyKey) -> dict[str, str]:
    name, version, params = toy
    return {"name": name, "version": version, "params": params}
