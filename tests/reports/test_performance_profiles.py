"""Performance profiles and the front of cost against quality, on boards where the answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from touchneedle.reports.board_overview import board_overview
from touchneedle.reports.boards import Board, build_boards
from touchneedle.reports.family_ranks import rank_families
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.overview_figures import draw_pareto, draw_profiles, draw_ranks
from touchneedle.reports.pareto import trades
from touchneedle.reports.performance_profiles import profiles, ratios
from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import build_sections

TOYS = ("toy_a", "toy_b", "toy_c", "toy_d")


def board_of(folder: Path) -> Board:
    (board,) = build_boards(build_sections(read_results(folder)))
    return board


def sizes(make: Any, results: Callable[..., Path], kl: dict[str, list[float]], errors: float = 1e-6, **cost: float) -> Board:
    """Three seeds of contestants whose KL is given toy by toy, and whose training time is 10 s unless said."""
    records = [
        make.record(
            name,
            seed,
            [make.metric("density/kl", value, errors)],
            toy=toy,
            cost={"train_seconds": cost.get(name, 10.0) * (1 + 0.01 * seed)},
        )
        for name, values in kl.items()
        for toy, value in zip(TOYS, values, strict=True)
        for seed in range(3)
    ]
    return board_of(results(*records))


def shares(board: Board, factors: list[float]) -> dict[str, list[float]]:
    (ranking,) = (ranking for ranking in rank_families(board) if ranking.family == "density")
    return {one.contestant.label: one.share(factors).tolist() for one in profiles(board, ranking)}


def test_shares_are_those_of_dolan_and_more(make: Any, results: Callable[..., Path]) -> None:
    board = sizes(make, results, {"a": [1.0, 1.0, 1.0, 8.0], "b": [2.0, 1.5, 4.0, 2.0]})
    assert shares(board, [1.0, 1.5, 2.0, 4.0]) == {"a": [0.75, 0.75, 0.75, 1.0], "b": [0.25, 0.5, 0.75, 1.0]}


def test_the_error_of_a_share_is_that_over_toys(make: Any, results: Callable[..., Path]) -> None:
    board = sizes(make, results, {"a": [1.0, 1.0, 1.0, 8.0], "b": [2.0, 1.5, 4.0, 2.0]})
    (ranking,) = (ranking for ranking in rank_families(board) if ranking.family == "density")
    first = next(one for one in profiles(board, ranking) if one.contestant.label == "a")
    assert first.stderr([1.0])[0] == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)


def test_a_lucky_zero_is_no_better_than_its_error(make: Any, results: Callable[..., Path]) -> None:
    board = sizes(make, results, {"lucky": [0.0] * 4, "sound": [0.02] * 4}, errors=0.01)
    error = 0.01 / math.sqrt(3)
    assert shares(board, [0.99 * 0.02 / error, 1.01 * 0.02 / error])["sound"] == [0.0, 1.0]


def test_ratios_of_zeros() -> None:
    assert ratios(np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 1.0]])).tolist() == [[1.0, 1.0, 2.0], [1.0, math.inf, 1.0]]


def test_n_star_counts_as_a_ratio_of_events_and_failed_runs_are_missing(make: Any, results: Callable[..., Path]) -> None:
    records = []
    for name, star in (("far", 1000.0), ("near", 500.0)):
        for toy in TOYS:
            metrics = [make.metric("fit/n_star", star, 1.0, parameter="mu", kind="interest", point=0)]
            records += [make.record(name, 0, metrics, toy=toy)]
            failed = {"status": "failed", "metrics": [], "reason": "diverged"}
            other = make.record(name, 1, metrics, toy=toy)
            records += [other.model_copy(update=failed) if name == "far" else other]
    board = board_of(results(*records))
    (ranking,) = (ranking for ranking in rank_families(board) if ranking.family == "fit")
    found = {one.contestant.label: one.share([1.0, 1.9, 2.0]).tolist() for one in profiles(board, ranking)}
    assert found == {"far": [0.5, 0.5, 0.5], "near": [0.0, 0.0, 1.0]}


def test_the_front_and_who_is_clearly_dominated(make: Any, results: Callable[..., Path]) -> None:
    kl = {"best": [0.001] * 4, "good": [0.01] * 4, "dear": [0.1] * 4, "poor": [1.0] * 4}
    board = sizes(make, results, kl, best=100.0, good=1.0, dear=100.5, poor=500.0)
    (ranking,) = (ranking for ranking in rank_families(board) if ranking.family == "density")
    found = {trade.rank.contestant.label: trade for trade in trades(board, ranking, "cost/train_seconds")}
    assert {name for name, trade in found.items() if trade.front} == {"best", "good"}
    assert found["poor"].dominated_by == ("best", "good", "dear")
    assert found["dear"].dominated_by == ("good",)  # half a second slower than best is within its error
    assert found["best"].dominated_by == ()
    assert found["good"].cost.value == pytest.approx(np.exp(np.mean(np.log([1.01]))), rel=1e-12)


def test_single_runs_have_no_error_of_time_and_dominate_nobody(make: Any, results: Callable[..., Path]) -> None:
    records = [
        make.record(name, 0, [make.metric("density/kl", kl, 1e-6)], toy=toy, cost={"train_seconds": kl})
        for name, kl in (("best", 0.1), ("poor", 10.0))
        for toy in (*TOYS, *(f"more_{k}" for k in range(9)))
    ]
    board = board_of(results(*records))
    (ranking,) = (ranking for ranking in rank_families(board) if ranking.family == "density")
    found = {trade.rank.contestant.label: trade for trade in trades(board, ranking, "cost/train_seconds")}
    assert found["best"].cost.stderr is None
    assert (found["poor"].front, found["poor"].dominated_by) == (False, ())


def test_figures_are_stable_and_show_everybody(make: Any, results: Callable[..., Path]) -> None:
    board = sizes(make, results, {f"m{k}": [0.01 * (k + 1)] * 4 for k in range(5)}, **{f"m{k}": 2.0**k for k in range(5)})
    one = board_overview(1, board)
    for draw in (draw_ranks, draw_profiles, draw_pareto):
        first, again = draw(one), draw(board_overview(1, board))
        assert first.svg == again.svg
        assert all(f"m{k}" in first.svg for k in range(5)), draw.__name__
        assert len(first.svg) < 40_000
        assert first.caption


def test_the_summary_holds_profiles_and_trades(make: Any, results: Callable[..., Path], tmp_path: Path) -> None:
    sizes(make, results, {"a": [1.0, 1.0, 1.0, 8.0], "b": [2.0, 1.5, 4.0, 2.0]})
    write_report(tmp_path / "results", tmp_path / "out")
    (board,) = json.loads((tmp_path / "out" / "summary.json").read_text())["boards"]
    (family,) = (family for family in board["families"] if family["family"] == "density")
    (first,) = (one for one in family["profiles"] if one["label"] == "a")
    assert {point["factor"]: point["share"] for point in first["within"]}[3.0] == 0.75
    assert {(one["label"], one["metric"], one["family"]) for one in board["trades"]} == {
        (name, "cost/train_seconds", "density") for name in "ab"
    }
