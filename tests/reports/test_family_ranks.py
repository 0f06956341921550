"""Ranks over toys: scores against ranks by hand, and intervals and groups that hold what they promise on simulated boards."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata

from touchneedle.reports.boards import Board, build_boards
from touchneedle.reports.family_ranks import (
    MIN_TOYS,
    FamilyRanking,
    bootstrap,
    losses,
    rank_families,
    rank_interval,
    scores_of,
)
from touchneedle.reports.judged import Judged
from touchneedle.reports.pairwise import LEVEL, differences
from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import build_sections


def judged(badness: NDArray[np.float64]) -> Judged:
    """Badness (contestants, seeds, numbers) of one toy."""
    contestants, seeds, numbers = badness.shape
    owner = np.repeat(np.arange(contestants), seeds)
    return Judged(owner, badness.reshape(-1, numbers), np.full(numbers, 1 / numbers), (), ())


def even_scores(toy: Judged) -> NDArray[np.float64]:
    return scores_of(losses(toy), toy.owner, (1 / np.bincount(toy.owner)[toy.owner])[None])[0]


def only_board(folder: Path) -> Board:
    (board,) = build_boards(build_sections(read_results(folder)))
    return board


def rankings(folder: Path) -> dict[str, FamilyRanking]:
    return {ranking.family: ranking for ranking in rank_families(only_board(folder))}


def test_the_score_of_single_runs_is_the_mean_rank_with_ties_and_infinities() -> None:
    badness = np.random.default_rng(0).integers(0, 4, size=(6, 1, 8)).astype(float)
    badness[badness == 3] = math.inf
    assert even_scores(judged(badness)) == pytest.approx(rankdata(badness[:, 0], axis=0).mean(axis=1), rel=1e-12)


def test_the_score_of_several_runs_is_the_expected_rank_of_one_of_each() -> None:
    badness = np.random.default_rng(1).normal(size=(3, 2, 5))
    choices = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    expected = np.mean([rankdata(badness[np.arange(3), list(choice)], axis=0).mean(axis=1) for choice in choices], axis=0)
    assert even_scores(judged(badness)) == pytest.approx(expected, rel=1e-12)


def test_the_bootstrap_of_one_contestant_each_is_centred_and_as_wide_as_the_closed_form() -> None:
    toys = [judged(np.random.default_rng(k).normal(size=(4, 1, 30))) for k in range(6)]
    per_toy = np.array([even_scores(toy) for toy in toys])
    draws = bootstrap([[toy] for toy in toys], np.random.default_rng(0), draws=20_000)
    error = per_toy.std(axis=0) / math.sqrt(6)  # resampling toys alone: sd with N in the denominator
    assert np.abs(draws.mean(axis=0) - per_toy.mean(axis=0)).max() < 5 * error.max() / math.sqrt(20_000)
    assert draws.std(axis=0) == pytest.approx(error, rel=5 / math.sqrt(2 * 20_000))


def test_variants_of_a_toy_share_its_weight() -> None:
    ahead, behind = judged(np.array([[[0.0]], [[1.0]]])), judged(np.array([[[1.0]], [[0.0]]]))
    draws = bootstrap([[ahead, behind], [ahead, behind]], np.random.default_rng(0), draws=50)
    assert np.all(draws == 1.5)


def simulate(toys: int, contestants: int, spread: float, boards: int, draws: int) -> tuple[float, float, int]:
    """Shares of ranks inside their interval and of boards with a false distinction; boards. True ranks are 1, 2, ..., or all tie."""
    generator = np.random.default_rng(100 * toys + contestants)
    truth = np.linspace(0, spread, contestants)
    low, high = (rankdata(truth, method) for method in ("min", "max"))
    inside, false = 0.0, 0
    for _ in range(boards):
        found = []
        for _ in range(toys):
            level = truth + 0.5 * generator.normal(size=contestants)
            found.append(judged(level[:, None, None] + 0.5 * generator.normal(size=(contestants, 3, 6))))
        lowest, highest = rank_interval(bootstrap([[toy] for toy in found], generator, draws), toys)
        inside += float(np.mean((lowest <= high) & (highest >= low)))
        told = [pair for pair in differences(np.array([even_scores(toy) for toy in found])) if pair.told_apart]
        false += any(truth[pair.better] >= truth[pair.worse] for pair in told)
    return inside / boards, false / boards, boards


def at_least(share: float, promised: float, boards: int) -> bool:
    """Within four binomial errors of what is promised, or better."""
    return share > promised - 4 * math.sqrt(promised * (1 - promised) / boards)


@pytest.mark.parametrize(("toys", "contestants", "spread"), [(3, 4, 0.0), (3, 4, 1.0), (5, 6, 1.0)])
def test_simulated_boards_are_recovered_with_the_stated_confidence(toys: int, contestants: int, spread: float) -> None:
    inside, false, boards = simulate(toys, contestants, spread, boards=150, draws=400)
    assert at_least(inside, 1 - LEVEL, boards)
    assert at_least(1 - false, 1 - LEVEL, boards)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("toys", "contestants"), [(3, 5), (5, 10), (12, 6)])
def test_confidence_holds_from_equal_to_far_apart(toys: int, contestants: int, spread: float) -> None:
    inside, false, boards = simulate(toys, contestants, spread, boards=1000, draws=1000)
    assert at_least(inside, 1 - LEVEL, boards)
    assert at_least(1 - false, 1 - LEVEL, boards)


def test_far_apart_contestants_are_told_apart_and_have_one_rank() -> None:
    found = [judged(np.random.default_rng(k).normal(size=(4, 3, 6)) + 20 * np.arange(4)[:, None, None]) for k in range(6)]
    low, high = rank_interval(bootstrap([[toy] for toy in found], np.random.default_rng(0)), 6)
    assert low.tolist() == high.tolist() == [1, 2, 3, 4]
    assert sum(pair.told_apart for pair in differences(np.array([even_scores(toy) for toy in found]))) >= 5


TOYS = ("toy_a", "toy_b", "toy_c", "toy_d")


def board_of(make: Any, kl: dict[str, float], toys: tuple[str, ...] = TOYS, **changes: Any) -> list[Any]:
    return [
        make.record(name, seed, make.density_metrics(value * (1 + 0.01 * seed)), toy=toy, **changes)
        for name, value in kl.items()
        for toy in toys
        for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ((1_000, 1_001), "seeds 1000 to 1001, kept for the published board"),
        ((0, 2), "seeds 0 to 2, for development"),
        ((7,), "seed 7, for development"),
        ((0, 1_000), "some for the published board and some for development"),
    ],
)
def test_a_board_says_whether_its_seeds_were_kept_for_it(
    make: Any, results: Callable[..., Path], seeds: tuple[int, ...], said: str
) -> None:
    records = [make.record(name, seed, make.density_metrics(0.01)) for name in ("ratio_bce", "zuko_nsf") for seed in seeds]
    assert said in only_board(results(*records)).seeds


def test_order_of_true_ranks_from_records(make: Any, results: Callable[..., Path]) -> None:
    kl = {"worst": 0.4, "best": 0.001, "middle": 0.02, "oracle": 0.0, "template_histogram": 0.5}
    found = rankings(results(*board_of(make, kl)))["density"]
    assert [(rank.contestant.label, rank.rank, rank.score) for rank in found.ranks] == [("best", 1, 1), ("middle", 2, 2), ("worst", 3, 3)]
    assert found.metrics == ("density/kl", "density/log_ratio_median", "density/log_ratio_rmse")
    assert {name for name, _, _ in found.toys} == set(TOYS)


def test_fewer_toys_than_a_ranking_needs_rank_nobody(make: Any, results: Callable[..., Path]) -> None:
    found = rankings(results(*board_of(make, {"a": 0.1, "b": 0.2}, TOYS[: MIN_TOYS - 1])))["density"]
    assert found.ranks == ()
    assert len(found.toys) == MIN_TOYS - 1


def test_a_failed_run_is_the_worst_and_a_missing_one_is_not_ranked(make: Any, results: Callable[..., Path]) -> None:
    records = board_of(make, {"good": 0.001, "fair": 0.2, "poor": 0.3, "absent": 0.0001})
    changed = []
    for record in records:
        if record.estimator.name == "absent" and record.toy.name in ("toy_c", "toy_d"):
            continue
        if record.estimator.name == "good" and record.toy.name != "toy_a":
            record = record.model_copy(update={"status": "failed", "metrics": [], "reason": "diverged"})
        changed.append(record)
    found = rankings(results(*changed))["density"]
    scores = {rank.contestant.label: rank.score for rank in found.ranks}
    assert scores == pytest.approx({"fair": (2 + 1 + 1 + 1) / 4, "poor": (3 + 2 + 2 + 2) / 4, "good": (1 + 3 + 3 + 3) / 4})
    assert [(one.label, why) for one, why in found.unranked] == [("absent", "judged on 2 of 4 toys")]


def test_a_toy_that_somebody_never_met_is_named(make: Any, results: Callable[..., Path]) -> None:
    records = board_of(make, {"a": 0.1, "b": 0.2, "c": 0.3}, (*TOYS, "toy_e"))
    found = rankings(results(*(r for r in records if (r.estimator.name, r.toy.name) != ("c", "toy_e"))))["density"]
    assert len(found.ranks) == 3
    assert [name for name, _, _ in found.toys_left_out] == ["toy_e"]


def test_many_that_ran_once_on_two_toys_do_not_displace_the_core(make: Any, results: Callable[..., Path]) -> None:
    core = {f"core_{k}": 0.01 * (k + 1) for k in range(3)}
    extra = {f"extra_{k}": 0.001 for k in range(5)}
    once = [record for record in board_of(make, extra, TOYS[:2]) if record.seed == 0]
    found = rankings(results(*board_of(make, core), *once))["density"]
    assert {rank.contestant.label for rank in found.ranks} == set(core)
    assert len(found.unranked) == 5


def test_what_not_everybody_has_does_not_count(make: Any, results: Callable[..., Path]) -> None:
    records = board_of(make, {"flow": 0.3, "ratio": 0.1})
    for record in records:
        if record.estimator.name == "ratio":
            record.metrics[0] = make.metric("density/kl", None, reason="no density")
    found = rankings(results(*records))["density"]
    assert (found.metrics, found.lacking) == (("density/log_ratio_median", "density/log_ratio_rmse"), ("density/kl",))


def test_not_a_number_is_the_worst(make: Any, results: Callable[..., Path]) -> None:
    records = board_of(make, {"broken": 0.001, "sound": 0.3})
    for record in records:
        if record.estimator.name == "broken":
            record.metrics[:] = [m.model_copy(update={"value": math.nan, "stderr": math.nan}) for m in record.metrics]
    found = rankings(results(*records))["density"]
    assert [rank.contestant.label for rank in found.ranks] == ["sound", "broken"]


def test_withheld_metrics_do_not_judge(make: Any, results: Callable[..., Path]) -> None:
    tv = {"oracle": 0.1, "best_gaussian": 0.1}
    names = {"oracle": 0.5, "best_gaussian": 0.01, "a": 0.1, "b": 0.2}
    records = [
        make.record(name, 0, [make.metric("density/kl", kl, 1e-4), make.metric("density/tv", tv.get(name, kl), 0.1)], toy=toy)
        for name, kl in names.items()
        for toy in TOYS
    ]
    assert rankings(results(*records))["density"].metrics == ("density/tv",)


def test_budgets_designs_and_tracks_are_boards_of_their_own(make: Any, results: Callable[..., Path]) -> None:
    kl = {"a": 0.1, "b": 0.2}
    variations: list[dict[str, Any]] = [{}, {"design": "templates"}, {"track": "tuned"}, {"n_train": 2_000}]
    records = [
        record.model_copy(update={"run_id": f"{number}-{record.run_id}"})
        for number, changes in enumerate(variations)
        for record in board_of(make, kl, **changes)
    ]
    boards = build_boards(build_sections(read_results(results(*records))))
    found = {(board.n_train, board.design, board.track, board.runs) for board in boards}
    assert len(boards) == 4
    assert found == {
        (10_000, "prior", "default", 16),
        (10_000, "templates", "default", 16),
        (10_000, "prior", "tuned", 16),
        (2_000, "prior", "default", 16),
    }


def test_only_the_newest_version_of_a_toy_counts(make: Any, results: Callable[..., Path]) -> None:
    records = [make.record(name, toy=toy, version=v) for name in ("a", "b") for toy in TOYS for v in ("2", "10")]
    assert {toy[:2] for toy in only_board(results(*records)).toys} == {(toy, "10") for toy in TOYS}
