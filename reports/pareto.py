"""Cost against quality: who is on the front, and who is clearly dominated.

Quality is the score of a family (lower is better), cost the geometric mean over toys. On the *front* is whom nobody beats in both, by the
numbers as they are. *Clearly dominated* is who is beaten in both by more than two standard errors of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from touchneedle.reports.averages import Average, averages
from touchneedle.reports.boards import Board
from touchneedle.reports.differences import SIGMAS
from touchneedle.reports.family_ranks import FamilyRanking, Rank

COSTS = (("cost/train_seconds", "training / s"), ("cost/log_ratio_microseconds", "one log-ratio / \N{MICRO SIGN}s"))


@dataclass(frozen=True)
class Trade:
    """A contestant's cost and quality.

    Attributes:
        front: nobody is better in both.
        dominated_by: labels of those that are better in both beyond errors.
    """

    rank: Rank
    cost: Average
    front: bool
    dominated_by: tuple[str, ...]


def trades(board: Board, ranking: FamilyRanking, metric: str) -> list[Trade]:
    """Contestants of a ranking that have the cost, cheapest first."""
    costs = {one.label: one for one in averages(board, metric, log=True)}
    pairs = [(rank, costs[rank.contestant.label]) for rank in ranking.ranks if rank.contestant.label in costs]
    error = ranking.differences[0].stderr if ranking.differences else math.inf
    found = [Trade(rank, cost, _front(rank, cost, pairs), _beaten(rank, cost, pairs, error)) for rank, cost in pairs]
    return sorted(found, key=lambda trade: (trade.cost.value, trade.rank.contestant.label))


def _front(rank: Rank, cost: Average, pairs: Sequence[tuple[Rank, Average]]) -> bool:
    return not any(
        other.score <= rank.score and price.value <= cost.value and (other.score < rank.score or price.value < cost.value)
        for other, price in pairs
    )


def _beaten(rank: Rank, cost: Average, pairs: Sequence[tuple[Rank, Average]], error: float) -> tuple[str, ...]:
    return tuple(
        other.contestant.label
        for other, price in pairs
        if rank.score - other.score > SIGMAS * error and math.log(cost.value / price.value) > SIGMAS * _log_error(cost, price)
    )


def _log_error(one: Average, other: Average) -> float:
    """Error of the logarithm of the ratio of two costs; infinite where one has none, as after a single run."""
    if one.stderr is None or other.stderr is None:
        return math.inf
    return math.hypot(one.stderr / one.value, other.stderr / other.value)
