"""The committed records of the contestants: flows on fnf_two_class against their targets, and what fits of every kind say."""

from pathlib import Path

import pytest

from touchneedle.benchmark.records import Metric, Record, read_records
from touchneedle.reports.repeat import repeat_command

CONTESTANTS = Path(__file__).parents[1] / "results" / "reference" / "contestants"
FLOWS = ("nflows_coupling_nsf", "nflows_nsf", "normflows_nsf", "zuko_maf", "zuko_nsf")
# One method of every kind that the sweep `profiled` trains on a toy with two solutions.
KINDS = ("flow_matching", "mixture_density", "posterior_flow", "posterior_score", "ratio_bce", "ratio_signed_revert", "zuko_nsf")
TARGETS = {100_000: 0.015, 1_000_000: 0.005}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return read_records(CONTESTANTS)


def divergences(records: list[Record], n_train: int, names: tuple[str, ...] = FLOWS) -> dict[str, list[tuple[float, float]]]:
    """KL at nominal with its standard error, of every flow trained on so many events."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record.estimator.name in names and record.budget.n_train == n_train:
            found.setdefault(record.estimator.name, []).extend(number(row) for row in record.metrics if row.name == "kl")
    return {name: [pair for pair in pairs if pair] for name, pairs in found.items() if any(pairs)}


def number(row: Metric) -> tuple[float, float] | tuple[()]:
    return () if row.value is None or row.stderr is None else (row.value, row.stderr)


@pytest.mark.parametrize("n_train", TARGETS)
def test_the_best_flow_is_close_to_the_exact_density(records: list[Record], n_train: int) -> None:
    best = min(value + 2 * error for pairs in divergences(records, n_train).values() for value, error in pairs)
    assert best < TARGETS[n_train]


def test_every_library_is_there_and_more_events_help(records: list[Record]) -> None:
    medium = divergences(records, 100_000)
    assert set(medium) == set(FLOWS)
    ((large, error),) = divergences(records, 1_000_000)["zuko_nsf"]
    assert large + 4 * error < min(value for value, _ in medium["zuko_nsf"])


def test_every_record_says_how_to_repeat_it(records: list[Record]) -> None:
    assert all(record.status == "ok" for record in records)
    assert all("results=results/reference/contestants" in repeat_command(record) for record in records)


def profiled(records: list[Record], toy: str) -> dict[str, Record]:
    """The records of the sweep `profiled` on one toy, by estimator."""
    return {r.estimator.name: r for r in records if r.toy.name == toy and r.config["evaluation"]["families"] == ["fit"]}


def rows(record: Record, name: str) -> list[Metric]:
    return [row for row in record.metrics if row.name == name and row.value is not None]


@pytest.mark.parametrize("name", KINDS)
def test_fits_of_every_kind_report_both_solutions_of_an_interference(records: list[Record], name: str) -> None:
    record = profiled(records, "amplitude_interference")[name]
    (share,) = rows(record, "solutions")
    assert share.n == 10, "six experiments have the first solution, four have the second"
    first = [row for row in rows(record, "solution_shift") if row.at["solution"] == 1]
    assert [row.at["parameter"] for row in first] == ["mu"]
    assert all(row.stderr is not None and row.stderr > 0 for row in first)


def test_the_exact_answer_is_at_both_solutions(records: list[Record]) -> None:
    oracle = profiled(records, "amplitude_interference")["oracle"]
    assert [row.value for row in rows(oracle, "solutions")] == [1.0]
    assert max(abs(row.value or 0.0) for row in rows(oracle, "solution_shift")) < 1e-6
    assert {row.at["solution"] for row in rows(oracle, "solution_shift")} == {1, 2}


@pytest.mark.parametrize("name", [*KINDS[1:], "ratio_parametric"])
def test_fits_of_every_kind_report_the_profiled_fraction(records: list[Record], name: str) -> None:
    record = profiled(records, "fnf_two_class")[name]
    found = [row for row in rows(record, "bias_vs_oracle") if row.at["parameter"] == "fraction_b"]
    assert [row.at["n_events"] for row in found] == [100, 1000]
    assert all(row.stderr is not None and row.stderr > 0 for row in found)
