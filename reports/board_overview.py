"""One board as a reader sees it: its rankings by family, and who ran how often, failed, and passed which gates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from touchneedle.reports.boards import Board, Contestant
from touchneedle.reports.family_ranks import MIN_TOYS, FamilyRanking, Rank, rank_families
from touchneedle.reports.performance_profiles import Profile, best_first, profiles
from touchneedle.reports.text_tables import gate_states

ABOUT_RANKS = (
    "A score is the rank that one run expects among one run of each of the others, averaged over the numbers of a family and over toys; "
    "the interval holds the rank at 95 % (nested bootstrap over toys and runs). Who shares a letter cannot be told apart at 5 % (all "
    "pairs, Holm). Only who was judged on every toy of a ranking is in it; failed runs count as the worst; controls and baselines stand "
    "outside."
)


@dataclass(frozen=True)
class Tally:
    """What a contestant did on a board: runs, how many failed, gates by state."""

    runs: int
    failed: int
    gates: dict[str, int]


@dataclass(frozen=True)
class BoardOverview:
    """A board with its rankings, its performance profiles by family (best first), and a tally for each of its contestants by key."""

    anchor: str
    board: Board
    rankings: tuple[FamilyRanking, ...]
    profiles: dict[str, list[Profile]]
    tallies: dict[str, Tally]

    def ranked(self) -> list[tuple[Contestant, dict[str, Rank]]]:
        """Contestants, each with its ranks by family; in order of the first family that ranks them, then the unranked by label."""
        ranks = {r.family: {rank.contestant.key: rank for rank in r.ranks} for r in self.rankings}
        lines = [(one, {family: found[one.key] for family, found in ranks.items() if one.key in found}) for one in self.board.contestants]
        return sorted(lines, key=lambda line: [line[1][f].score if f in line[1] else float("inf") for f in ranks])


def board_overview(index: int, board: Board) -> BoardOverview:
    """Rank a board; ``index`` counts boards from 1 and names its anchor."""
    rankings = tuple(rank_families(board))
    return BoardOverview(
        anchor=f"board-{index}",
        board=board,
        rankings=rankings,
        profiles={ranking.family: best_first(profiles(board, ranking)) for ranking in rankings},
        tallies={one.key: _tally(board, one) for one in board.contestants},
    )


def unranked_lines(ranking: FamilyRanking) -> list[str]:
    """Why a family ranks nobody, or who is missing from it."""
    toys = len({name for name, _, _ in ranking.toys})
    if not ranking.ranks:
        return [f"{ranking.family}: nobody is ranked; {toys} toys judge two or more contestants alike, a ranking needs {MIN_TOYS}"]
    groups: dict[str, list[str]] = {}
    if ranking.toys_left_out:
        names = sorted({name for name, _, _ in ranking.toys_left_out})
        groups["toys left out, where not everybody was judged"] = names
    for one, why in ranking.unranked:
        groups.setdefault(f"not ranked, {why}", []).append(one.label)
    return [f"{ranking.family}: {why}: {', '.join(names)}" for why, names in groups.items()]


def _tally(board: Board, contestant: Contestant) -> Tally:
    entries = [entry for (key, _), entry in board.entries.items() if key == contestant.key]
    gates = Counter(state for entry in entries if entry.row for state in gate_states(entry.row).values())
    failed = sum(len(entry.failed) for entry in entries)
    return Tally(sum(len(entry.seeds) for entry in entries), failed, {state: gates[state] for state in ("pass", "fail", "undecided")})
