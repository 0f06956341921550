"""Rank per metric family over toys and seeds, with intervals and groups that cannot be told apart.

On one toy, the *score* of a contestant is the rank that one of its runs expects among one run of each other contestant,

    score_i = 1 + sum_{j != i} P(run of j is better than run of i) + P(tie) / 2,

the probabilities being shares of all pairs of runs, averaged over the numbers of the family (`judged`). Ranks know no units, and a
failed run is simply the last. The score over toys is the mean of those per toy; variants of one toy (other options) share its weight.

Intervals are percentiles of a nested bootstrap (toys, then the runs of each contestant), expanded for the small number N of toys
as by Hesterberg (2015, arXiv:1411.5279, section 5.3): levels Phi(-sqrt(N / (N - 1)) t_{alpha/2, N-1}). The standard error of a score
counts one more toy of random order, as `pairwise` does: the bootstrap's variance plus (K - 1) / K * V / N^2.

Below `MIN_TOYS` toys nothing is ranked. Only contestants that were judged on every toy of the ranking are in it; the toys are those for
which it rests on most runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from touchneedle.reports.boards import Board, Contestant, ToyKey
from touchneedle.reports.judged import FAMILIES, Judged, judge
from touchneedle.reports.pairwise import LEVEL, Difference, differences, letters, random_variance

MIN_TOYS = 3
DRAWS = 2000


@dataclass(frozen=True)
class Rank:
    """Where a contestant stands in a family.

    Attributes:
        score: expected rank of one run, mean over toys; `stderr` by the bootstrap.
        rank: order of the scores, from 1; the mean of their places for ties.
        low, high: interval of the rank at the level 1 - `LEVEL`.
        group: contestants that share a letter cannot be told apart.
    """

    contestant: Contestant
    score: float
    stderr: float
    rank: float
    low: int
    high: int
    group: str


@dataclass(frozen=True)
class FamilyRanking:
    """The ranking of one family on one board.

    Attributes:
        toys: toys that it rests on; variants of one toy share a weight.
        toys_left_out: toys that judge two contestants or more, but not all of these.
        contestants: those judged on all of these toys, by label.
        metrics: what counts, somewhere; ``lacking``: what does not, on some toy, because not everybody has it.
        ranks: best first; empty if too few toys were judged.
        differences: pairs, as indices into ``ranks``.
        unranked: contestants judged on some toys only, with why.
    """

    family: str
    toys: tuple[ToyKey, ...]
    toys_left_out: tuple[ToyKey, ...]
    contestants: tuple[Contestant, ...]
    metrics: tuple[str, ...]
    lacking: tuple[str, ...]
    ranks: tuple[Rank, ...]
    differences: tuple[Difference, ...]
    unranked: tuple[tuple[Contestant, str], ...]


def rank_families(board: Board) -> list[FamilyRanking]:
    """One ranking per family that anybody on the board was judged in."""
    return [ranking for family in FAMILIES if (ranking := _rank_family(board, family)) is not None]


def rank_interval(scores: NDArray[np.float64], toys: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest rank at the level 1 - `LEVEL` from bootstrap draws (draws, K) of the scores over ``toys`` toys."""
    ranks = rankdata(scores, axis=1)
    tail = norm.cdf(math.sqrt(toys / (toys - 1)) * student.ppf(LEVEL / 2, toys - 1))
    low = np.quantile(ranks, tail, axis=0, method="inverted_cdf")
    high = np.quantile(ranks, 1 - tail, axis=0, method="inverted_cdf")
    return np.floor(low).astype(int), np.ceil(high).astype(int)


def losses(judged: Judged) -> NDArray[np.float64]:
    """(r, r) weighted share of numbers in which run a is worse than run b, ties half; 0 between runs of one contestant."""
    found = np.zeros((len(judged.owner), len(judged.owner)))
    for column, weight in zip(judged.badness.T, judged.weight, strict=True):
        found += weight * ((column[:, None] > column) + 0.5 * (column[:, None] == column))
    found[judged.owner[:, None] == judged.owner] = 0.0
    return found


def scores_of(loss: NDArray[np.float64], owner: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, K) scores for m choices of weights (m, r) of the runs, which add up to 1 within each contestant."""
    expected = weights * (weights @ loss.T)
    member = owner[:, None] == np.arange(owner.max() + 1)
    return 1.0 + expected @ member


def bootstrap(toys: Sequence[Sequence[Judged]], generator: np.random.Generator, draws: int = DRAWS) -> NDArray[np.float64]:
    """(draws, K) mean scores of toys drawn with replacement, and runs within them; a toy is the list of its variants."""
    total = np.zeros((draws, int(toys[0][0].owner.max()) + 1))
    chosen = generator.integers(len(toys), size=(draws, len(toys)))
    for index, variants in enumerate(toys):
        draw, _ = np.nonzero(chosen == index)
        scores = sum(scores_of(losses(one), one.owner, _resampled(one.owner, len(draw), generator)) for one in variants)
        np.add.at(total, draw, scores / len(variants))
    return total / len(toys)


def _rank_family(board: Board, family: str) -> FamilyRanking | None:
    seen = {key for key, entry in board.entries.items() if entry.judged(family)}
    if not any(family in board.entries[key].numbers for key in seen):
        return None
    toys, contestants = _complete(board, seen)
    judged = {toy: found for toy in toys if (found := _judge(board, family, toy, contestants)) is not None}
    left_out = _left_out(board, seen, contestants, judged)
    metrics = tuple(sorted({name for one in judged.values() for name in one.metrics}))
    lacking = tuple(sorted({name for one in judged.values() for name in one.lacking}))
    others = tuple(toy for toy in sorted(board.toys) if toy not in judged and sum(other == toy for _, other in seen) > 1)
    variants = _variants(judged)
    ranks, pairs = _ranks(contestants, variants) if len(variants) >= MIN_TOYS else ((), ())
    return FamilyRanking(family, tuple(judged), others, tuple(contestants), metrics, lacking, ranks, pairs, left_out)


def _ranks(contestants: Sequence[Contestant], toys: Sequence[Sequence[Judged]]) -> tuple[tuple[Rank, ...], tuple[Difference, ...]]:
    per_toy = np.array([np.mean([scores_of(losses(one), one.owner, _even(one.owner))[0] for one in variants], axis=0) for variants in toys])
    score = per_toy.mean(axis=0)
    draws = bootstrap(toys, np.random.default_rng(0))
    stderr = np.sqrt(draws.var(axis=0) + random_variance(per_toy) * (1 - 1 / len(contestants)) / len(toys) ** 2)
    low, high = rank_interval(draws, len(toys))
    order = [int(k) for k in np.lexsort((np.arange(len(score)), score))]
    position = {contestant: place for place, contestant in enumerate(order)}
    pairs = differences(per_toy)
    groups = letters(order, {frozenset((pair.better, pair.worse)) for pair in pairs if pair.told_apart})
    places = rankdata(score)
    ranks = tuple(
        Rank(contestants[k], float(score[k]), float(stderr[k]), float(places[k]), int(low[k]), int(high[k]), groups[k]) for k in order
    )
    placed = (Difference(position[p.better], position[p.worse], p.value, p.stderr, p.p_value) for p in pairs)
    return ranks, tuple(sorted(placed, key=lambda pair: (pair.better, pair.worse)))


def _complete(board: Board, seen: set[tuple[str, ToyKey]]) -> tuple[list[ToyKey], list[Contestant]]:
    """Toys, and contestants judged on all of them, that rest on most runs; toys in order of their runs are tried one after the other."""
    runs = {key: len(board.entries[key].seeds) for key in seen}
    by_runs = sorted(board.toys, key=lambda toy: (-sum(n for (_, other), n in runs.items() if other == toy), toy))
    choices = [by_runs[: k + 1] for k in range(len(by_runs))]
    choices += [[toy for toy in by_runs if (one.key, toy) in seen] for one in board.contestants]
    best: tuple[int, int] = (-1, 0)
    found: tuple[list[ToyKey], list[Contestant]] = ([], [])
    for toys in choices:
        complete = [one for one in board.contestants if all((one.key, toy) in seen for toy in toys)]
        size = sum(runs[one.key, toy] for one in complete for toy in toys)
        if len(complete) > 1 and (size, len(toys)) > best:
            best, found = (size, len(toys)), (sorted(toys), complete)
    return found


def _judge(board: Board, family: str, toy: ToyKey, contestants: Sequence[Contestant]) -> Judged | None:
    entries = [board.entries[one.key, toy] for one in contestants]
    return judge([(entry.seeds, entry.numbers[family] if entry.row else None) for entry in entries])


def _left_out(
    board: Board, seen: set[tuple[str, ToyKey]], contestants: Sequence[Contestant], judged: Mapping[ToyKey, Judged]
) -> tuple[tuple[Contestant, str], ...]:
    ranked = {one.key for one in contestants}
    found = []
    for one in board.contestants:
        count = sum((one.key, toy) in seen for toy in judged)
        if one.key not in ranked:
            found.append((one, f"judged on {count} of {len(judged)} toys" if judged else "no two contestants share a toy"))
    return tuple(found)


def _variants(judged: Mapping[ToyKey, Judged]) -> list[list[Judged]]:
    by_name: dict[str, list[Judged]] = {}
    for (name, _, _), one in sorted(judged.items()):
        by_name.setdefault(name, []).append(one)
    return list(by_name.values())


def _even(owner: NDArray[np.int64]) -> NDArray[np.float64]:
    return (1.0 / np.bincount(owner)[owner])[None, :]


def _resampled(owner: NDArray[np.int64], size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(size, r) weights of runs drawn with replacement within each contestant."""
    counts = np.bincount(owner)
    return np.concatenate([generator.multinomial(n, np.full(n, 1 / n), size=size) / n for n in counts], axis=1)
