"""Performance profiles (Dolan and More 2002, arXiv:cs/0102001): on which share of problems is a method within a factor of the best?

A problem is one number of a family on one toy (`judged`), toys weighing the same. For badness b with standard error e the ratio is

    r_k = max(b_k, e_k) / min_j max(b_j, e_j),

so that nobody wins by a lucky zero; of n* the ratio is that of the numbers of events. rho_k(tau) is the share of problems with
r_k <= tau, times the share of runs that did not fail. Its error is that over toys. Numbers without a natural zero are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchneedle.reports.aggregate import Cell
from touchneedle.reports.boards import Board, Contestant, Entry, ToyKey
from touchneedle.reports.family_ranks import FamilyRanking
from touchneedle.reports.judged import Where, shared
from touchneedle.reports.ranking import place, size_of, target_of

FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True)
class Profile:
    """The profile of one contestant.

    Attributes:
        ratio: (q,) badness over the best of each problem.
        weight: (q,) of each problem in the mean over toys, zero for runs that failed.
        toy: (q,) index of its toy.
    """

    contestant: Contestant
    ratio: NDArray[np.float64]
    weight: NDArray[np.float64]
    toy: NDArray[np.int64]

    def share(self, factors: ArrayLike) -> NDArray[np.float64]:
        """(m,) share of problems within each of m factors of the best."""
        return (self.ratio[:, None] <= np.asarray(factors) * (1 + 1e-12)).T @ self.weight

    def stderr(self, factors: ArrayLike) -> NDArray[np.float64]:
        """(m,) standard error of `share` over toys; NaN for a single toy."""
        toys = int(self.toy.max()) + 1
        within = (self.ratio[:, None] <= np.asarray(factors) * (1 + 1e-12)) * self.weight[:, None] * toys
        per_toy = np.array([within[self.toy == index].sum(axis=0) for index in range(toys)])
        return per_toy.std(axis=0, ddof=1) / math.sqrt(toys) if toys > 1 else np.full(per_toy.shape[1:], math.nan)


def profiles(board: Board, ranking: FamilyRanking) -> list[Profile]:
    """Profiles of the contestants of a ranking, by label; none without problems."""
    names = sorted({name for name, _, _ in ranking.toys})
    blocks = [_problems(board, ranking, toy) for toy in ranking.toys]
    share = [1 / len(names) / sum(other[0] == toy[0] for other in ranking.toys) for toy in ranking.toys]
    if not any(len(ratio[0]) for ratio, _ in blocks if len(ratio)):
        return []
    toy = np.concatenate([np.full(len(weight), names.index(key[0])) for key, (_, weight) in zip(ranking.toys, blocks, strict=True)])
    found = []
    for index, one in enumerate(ranking.contestants):
        ratio = np.concatenate([ratios[index] for ratios, _ in blocks])
        good = [_good(board.entries[one.key, key]) for key in ranking.toys]
        weight = np.concatenate([w * part * ok for (_, w), part, ok in zip(blocks, share, good, strict=True)])
        found.append(Profile(one, ratio, weight, toy))
    return found


def _problems(board: Board, ranking: FamilyRanking, toy: ToyKey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K, q) ratios to the best and (q,) weights of the problems of one toy."""
    entries = [board.entries[one.key, toy] for one in ranking.contestants]
    cells = [_cells(entry, ranking.family) for entry in entries]
    offered = [entry.numbers[ranking.family] for entry in entries if entry.row]
    scaled = [where for where in shared(offered)[0] if all(_has_zero(found[where]) for found in cells if found)]
    weight = shared([{where: {} for where in scaled}])[1]
    sizes = np.array([[_size(found.get(where)) for where in scaled] for found in cells]).reshape(len(cells), len(scaled))
    return ratios(sizes), weight


def ratios(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, q) sizes of badness over the smallest of each column; where that is zero, 1 for those that share it, else infinite."""
    best = sizes.min(axis=0) if len(sizes) else sizes
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = sizes / best
    return np.where(sizes == best, 1.0, found)


def _cells(entry: Entry, family: str) -> dict[Where, Cell]:
    return {(cell.metric, place(cell)): cell for cell in entry.row.cells if cell.family == family} if entry.row else {}


def _size(cell: Cell | None) -> float:
    if cell is None:
        return math.inf
    bad, error = size_of(cell)
    return bad if cell.name == "n_star" else max(bad, error)


def _has_zero(cell: Cell) -> bool:
    return cell.name == "n_star" or target_of(cell) is not None or cell.direction == "lower"


def _good(entry: Entry) -> float:
    """Share of runs that did not fail."""
    return 1 - len(entry.failed) / len(entry.seeds)


def best_first(found: Sequence[Profile]) -> list[Profile]:
    """Profiles in order of the area under them, in the logarithm of the factor from 1 to 10."""
    factors = np.geomspace(1, FACTORS[-1], 60)
    return sorted(found, key=lambda one: (-float(one.share(factors).mean()), one.contestant.label))
