"""Solutions of toys that are not regular: found by the exact answer, moved and lost by wrong ones as they must be."""

import pytest

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.solutions import N_EXPERIMENTS, solution_rows
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy


def rows_of(toy_name, estimator_name):
    toy = build_toy(toy_name)
    estimator = build_estimator(estimator_name, toy.spec, truth=toy)
    estimator.prepare(make_events(toy, 5_000, "prior", 0))
    return solution_rows(EvaluationContext(toy, estimator.double(), EvaluationConfig(n_events=(300,)), 0))


def shifts(rows, solution):
    return [row for row in rows if row.name == "solution_shift" and row.at["solution"] == solution]


def test_half_a_sigma_is_half_a_sigma_at_every_solution_of_mirrored_signs():
    rows = rows_of("slcp", "oracle_shifted")
    assert [row.value for row in rows if row.name == "solutions"] == [1.0]
    for solution in (1, 2):
        # The control is moved by half of the sigma at the toy's own number of events, 1,000; these are 300.
        for row in shifts(rows, solution):
            assert row.value == pytest.approx(-0.5 * 0.3**0.5, abs=0.03)
            assert 0 < row.stderr < 0.03


def test_interference_has_two_solutions_and_the_exact_answer_is_at_both():
    toy = build_toy("amplitude_interference")
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    rows = solution_rows(EvaluationContext(toy, oracle, EvaluationConfig(), 0))
    (share,) = [row for row in rows if row.name == "solutions"]
    assert share.value == 1.0
    assert share.n > N_EXPERIMENTS + 1, "some experiments have a second solution"
    assert all(abs(row.value) < 1e-6 for row in shifts(rows, 1) + shifts(rows, 2))


def test_a_gaussian_loses_solutions():
    rows = rows_of("slcp", "best_gaussian")
    assert [row.value for row in rows if row.name == "solutions"] == [0.0]
    assert all(row.value is None and "find it" in row.at["reason"] for row in shifts(rows, 1))


def test_regular_toys_have_no_such_rows():
    rows = rows_of("gaussian_shift", "best_gaussian")
    assert all(row.value is None and "regular" in row.at["reason"] for row in rows)
