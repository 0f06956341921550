"""Means over seeds and their errors, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from touchneedle.benchmark.records import Null
from touchneedle.reports.aggregate import average, combine
from touchneedle.reports.rows import Row, read_results


def only_row(folder: Path) -> Row:
    (row,) = read_results(folder).rows
    return row


def test_one_seed_keeps_its_own_error() -> None:
    assert combine([(2.0, 0.3)]) == (2.0, 0.3)
    assert combine([(2.0, None)]) == (2.0, None)
    assert combine([]) == (None, None)


def test_between_seed_spread_is_the_error_when_it_is_larger() -> None:
    mean, error = combine([(1.0, 0.1), (2.0, 0.1), (4.0, 0.1)])
    sd = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2)
    assert mean == pytest.approx(7 / 3, rel=1e-12)
    assert error == pytest.approx(sd / math.sqrt(3), rel=1e-12)


def test_within_run_error_is_the_floor_when_seeds_agree_by_luck() -> None:
    mean, error = combine([(1.0, 0.3), (1.0, 0.4)])
    assert mean == 1.0
    assert error == pytest.approx(0.5 / 2, rel=1e-12)


def test_errors_are_not_added_in_quadrature() -> None:
    _, error = combine([(0.0, 1.0), (2.0, 1.0)])
    assert error == pytest.approx(1.0, rel=1e-12)  # sd/sqrt(2) = 1, sqrt(1 + 1)/2 = 0.71


def test_missing_errors_leave_the_spread() -> None:
    assert combine([(1.0, None), (3.0, None)])[1] == pytest.approx(1.0, rel=1e-12)


def test_n_star_is_averaged_in_log(make: Any) -> None:
    cell = average([(0, make.metric("fit/n_star", 100.0, 10.0)), (1, make.metric("fit/n_star", 400.0, 20.0))])
    sd = math.log(4) / math.sqrt(2)
    assert cell.value == pytest.approx(200.0, rel=1e-12)
    assert cell.stderr == pytest.approx(200.0 * sd / math.sqrt(2), rel=1e-12)


def test_infinite_values_stay_infinite_without_an_error(make: Any) -> None:
    cell = average([(0, make.metric("density/kl", math.inf, None)), (1, make.metric("density/kl", 0.1, 0.01))])
    assert cell.value == math.inf
    assert cell.stderr is None


def test_nan_is_not_a_number_but_a_reason(make: Any) -> None:
    cell = average([(0, make.metric("density/kl", math.nan, 0.1)), (1, make.metric("density/kl", 0.2, 0.1))])
    assert (cell.value, cell.n_seeds, cell.reason) == (0.2, 1, "not a number")


def test_reasons_of_missing_values_are_kept_once(make: Any) -> None:
    lacking = make.metric("density/kl", None, reason="no log_prob")
    cell = average([(0, lacking), (1, lacking)])
    assert (cell.value, cell.n_seeds, cell.reason) == (None, 0, "no log_prob")


def test_limits_are_marked_even_if_only_one_seed_is_a_limit(make: Any) -> None:
    limit = make.metric("fit/n_star", 1e6, 0.0, censored="above")
    number = make.metric("fit/n_star", 1e4, 1e3)
    some = average([(0, limit), (1, number)])
    every = average([(0, limit), (1, limit)])
    assert (some.censored, some.all_censored) == ("above", False)
    assert (every.censored, every.all_censored, every.value) == ("above", True, pytest.approx(1e6))


def test_null_level_and_size_are_means(make: Any) -> None:
    metrics = [(k, make.metric("density/sw1", v, 0.1, null=Null(value=0.1 * k))) for k, v in enumerate((-1.0, 3.0))]
    cell = average(metrics)
    assert (cell.value, cell.mean_abs, cell.null) == (1.0, 2.0, 0.05)


def test_places_are_told_apart_but_reasons_and_limits_are_not(make: Any, results: Callable[..., Path]) -> None:
    def metrics(scale: float) -> list[Any]:
        return [make.metric("fit/bias", scale * n, 1.0, n_events=n, parameter="mu") for n in (100, 1000)]

    row = only_row(results(make.record(seed=0, metrics=metrics(1.0)), make.record(seed=1, metrics=metrics(3.0))))
    assert {cell.at["n_events"]: cell.value for cell in row.cells if cell.family == "fit"} == {100: 200.0, 1000: 2000.0}


def test_different_options_are_different_rows(make: Any, results: Callable[..., Path]) -> None:
    plain, wide = make.record(seed=0), make.record(seed=0, params={"hidden": 128})
    rows = read_results(results(plain, wide)).rows
    assert sorted(row.label for row in rows) == ["ratio_bce", "ratio_bce hidden=128"]


def test_trainer_settings_tell_rows_apart_but_the_machine_does_not(make: Any, results: Callable[..., Path]) -> None:
    runs = [make.record(seed=seed, run_id=f"run-{seed}") for seed in range(3)]
    runs[1].config["trainer"]["threads"] = 7
    runs[2].config["trainer"]["max_epochs"] = 99
    rows = read_results(results(*runs)).rows
    assert sorted((row.label, row.seeds) for row in rows) == [("ratio_bce", (0, 1)), ("ratio_bce trainer.max_epochs=99", (2,))]


def test_a_seed_with_two_records_counts_once(make: Any, results: Callable[..., Path]) -> None:
    short = make.record(run_id="a", metrics=[make.metric("density/kl", 5.0, 0.1)])
    full = make.record(run_id="b", metrics=[make.metric("density/kl", 1.0, 0.1), make.metric("density/log_ratio_rmse", 1.0, 0.1)])
    row = only_row(results(short, full))
    assert row.seeds == (0,)
    assert row.cells[0].value == 1.0
    assert row.notes == ("seed 0: 2 records of this cell; b is shown",)
