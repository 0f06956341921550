"""Order, groups that cannot be told apart, and metrics that misorder the controls."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import Section, Table, build_sections


def only_section(folder: Path) -> Section:
    (section,) = build_sections(read_results(folder))
    return section


def only_table(folder: Path) -> Table:
    (table,) = only_section(folder).tables
    return table


def order(table: Table) -> list[tuple[str, int | None, str]]:
    return [(standing.row.estimator, standing.rank, standing.group) for standing in table.standings]


def test_rows_follow_n_star_with_limits_first_and_missing_last(make: Any, results: Callable[..., Path]) -> None:
    entries = {"a": (1e3, None), "b": (1e6, "above"), "c": (None, None), "d": (2e6, None), "e": (50.0, None)}
    records = [make.record(name, metrics=make.fit_metrics(star, 0.1, censored=mark)) for name, (star, mark) in entries.items()]
    found = order(only_table(results(*records)))
    assert [name for name, _, _ in found] == ["b", "d", "a", "e", "c"]
    assert [rank for _, rank, _ in found] == [1, 2, 3, 4, None]


def test_controls_and_baselines_stand_in_the_table_unranked(make: Any, results: Callable[..., Path]) -> None:
    stars = {"oracle": 900.0, "template_histogram": 500.0, "ratio_bce": 400.0, "best_gaussian": 20.0}
    table = only_table(results(*(make.record(name, metrics=make.fit_metrics(star, 0.1)) for name, star in stars.items())))
    assert order(table) == [("oracle", None, ""), ("template_histogram", None, ""), ("ratio_bce", 1, "a"), ("best_gaussian", None, "")]
    assert [row.role for row in table.rows] == ["control", "baseline", "entry", "control"]


def test_a_single_run_is_not_ranked_beside_several_but_among_its_like(make: Any, results: Callable[..., Path]) -> None:
    once = [make.record(name, metrics=make.fit_metrics(star, 0.1)) for name, star in (("lucky", 5e3), ("once", 1e3))]
    again = [make.record("often", metrics=make.fit_metrics(100.0, 0.1), seed=seed) for seed in (0, 1)]
    assert order(only_table(results(*once))) == [("lucky", 1, "a"), ("once", 2, "b")]
    assert order(only_table(results(*once, *again))) == [("lucky", None, ""), ("once", None, ""), ("often", 1, "a")]


@pytest.mark.parametrize(("other", "group"), [(0.0, "a"), (1.9, "a"), (2.1, "b")])
def test_groups_are_two_combined_errors_wide_on_log_n_star(make: Any, results: Callable[..., Path], other: float, group: str) -> None:
    combined = math.hypot(0.1, 0.1)  # both errors are 10 %, so 0.1 in log n*
    star = 1000 * math.exp(-other * combined)
    found = order(only_table(results(*(make.record(n, metrics=make.fit_metrics(s, 0.1)) for n, s in (("best", 1000.0), ("next", star))))))
    assert {name: letter for name, _, letter in found} == {"best": "a", "next": group}


def test_all_limits_share_the_first_group(make: Any, results: Callable[..., Path]) -> None:
    records = [make.record(name, metrics=make.fit_metrics(star, 0.0, censored="above")) for name, star in (("a", 1e6), ("b", 1e5))]
    assert {letter for _, _, letter in order(only_table(results(*records)))} == {"a"}


@pytest.mark.parametrize("with_kl", [True, False])
def test_without_n_star_rows_follow_kl_else_log_ratio_rmse(make: Any, results: Callable[..., Path], with_kl: bool) -> None:
    def metrics(kl: float, rmse: float) -> list[Any]:
        numbers = [make.metric("fit/n_star", None, reason="not regular"), make.metric("density/log_ratio_rmse", rmse, 0.01)]
        return [*numbers, make.metric("density/kl", kl if with_kl else None, 0.001)]

    table = only_table(results(make.record("x", metrics=metrics(0.1, 0.9)), make.record("y", metrics=metrics(0.2, 0.5))))
    assert table.primary == ("density/kl" if with_kl else "density/log_ratio_rmse")
    assert [name for name, _, _ in order(table)] == (["x", "y"] if with_kl else ["y", "x"])


def test_a_kl_below_zero_is_no_merit(make: Any, results: Callable[..., Path]) -> None:
    values = {"leaky": -0.5, "true": 0.01}
    table = only_table(results(*(make.record(name, metrics=[make.metric("density/kl", v, 0.001)]) for name, v in values.items())))
    assert [name for name, _, _ in order(table)] == ["true", "leaky"]


def test_budgets_are_ranked_apart(make: Any, results: Callable[..., Path]) -> None:
    section = only_section(results(make.record(n_train=2000), make.record(n_train=10_000)))
    assert [(table.n_train, order(table)) for table in section.tables] == [
        (2000, [("ratio_bce", 1, "a")]),
        (10_000, [("ratio_bce", 1, "a")]),
    ]


def test_toy_versions_are_never_mixed(make: Any, results: Callable[..., Path]) -> None:
    sections = build_sections(read_results(results(make.record(version="1"), make.record(version="2"), make.record("b", version="2"))))
    assert [(section.toy[1], section.other_versions, len(section.tables[0].rows)) for section in sections] == [("1", 1, 1), ("2", 1, 2)]


CONTROL_CASES = [
    ("density/kl", "best_gaussian", 0.0, 0.1, False),
    ("density/kl", "best_gaussian", 0.1, 0.0, True),
    ("density/kl", "best_gaussian", 0.1, 0.08, False),  # 2 standard errors of 0.01 each: 0.028
    ("fit/bias_vs_oracle", "oracle_shifted", 0.0, -0.5, False),
    ("fit/bias_vs_oracle", "oracle_shifted", -0.5, 0.0, True),
    ("fit/width_vs_oracle", "oracle_narrow", 1.0, 0.9, False),
    ("fit/width_vs_oracle", "oracle_narrow", 0.9, 1.0, True),
    ("fit/n_star", "oracle_shifted", 1e5, 100.0, False),
    ("fit/n_star", "oracle_shifted", 100.0, 1e5, True),
    ("cost/train_seconds", "best_gaussian", 9.0, 1.0, False),
]


@pytest.mark.parametrize(("name", "control", "oracle_value", "control_value", "withheld"), CONTROL_CASES)
def test_a_metric_that_misorders_the_controls_is_withheld(
    make: Any, results: Callable[..., Path], name: str, control: str, oracle_value: float, control_value: float, withheld: bool
) -> None:
    values = {"oracle": oracle_value, control: control_value, "ratio_bce": 0.5}
    records = [make.record(n, metrics=[make.metric(name, v, 0.01)]) for n, v in values.items()]
    assert bool(only_table(results(*records)).withheld) == withheld


def test_a_withheld_primary_hands_over_to_the_next(make: Any, results: Callable[..., Path]) -> None:
    values = {"oracle": (100.0, 0.0), "oracle_shifted": (9000.0, 0.1), "ratio_bce": (500.0, 0.02)}
    records = [
        make.record(name, metrics=[make.metric("fit/n_star", star, 1.0, parameter="mu", point=0), make.metric("density/kl", kl, 0.001)])
        for name, (star, kl) in values.items()
    ]
    assert only_table(results(*records)).primary == "density/kl"


def test_parameter_of_interest_is_marked_or_first(make: Any, results: Callable[..., Path]) -> None:
    def star(parameter: str, **at: Any) -> Any:
        return make.metric("fit/n_star", 10.0, 1.0, parameter=parameter, point=0, **at)

    marked = [star("nu", kind="nuisance"), star("mu", kind="interest")]
    assert only_section(results(make.record(metrics=marked))).parameter == "mu"
    assert only_section(results(make.record(metrics=[star("f"), star("shift")]))).parameter == "f"


def test_order_of_other_points_and_parameters_does_not_reach_the_headline(make: Any, results: Callable[..., Path]) -> None:
    metrics = [
        make.metric("fit/n_star", 10.0, 1.0, parameter="f", point=0),
        make.metric("fit/n_star", 77.0, 1.0, parameter="f", point=1),
        make.metric("fit/n_star", 88.0, 1.0, parameter="shift", point=0),
    ]
    table = only_table(results(make.record(metrics=[metrics[0], metrics[2], metrics[1]])))
    cell = table.cell(table.rows[0], table.columns[0])
    assert cell is not None
    assert cell.value == 10.0


def test_toys_without_an_exact_answer_show_the_plain_bias(make: Any, results: Callable[..., Path]) -> None:
    here = {"parameter": "mu", "point": 0, "n_events": 1000}
    metrics = [make.metric("fit/bias_vs_oracle", None, reason="no exact density", **here), make.metric("fit/bias", 0.2, 0.1, **here)]
    table = only_table(results(make.record(metrics=metrics)))
    (column,) = (column for column in table.columns if column.key.startswith("bias"))
    cell = table.cell(table.rows[0], column)
    assert (column.title, cell and cell.value) == ("plain bias, n=1,000", 0.2)
    assert table.primary == ""
    assert [standing.rank for standing in table.standings] == [None]
