"""The committed records of the flows on fnf_two_class, held against the targets that they were trained for."""

from pathlib import Path

import pytest

from touchneedle.benchmark.records import Metric, Record, read_records
from touchneedle.reports.repeat import repeat_command

CONTESTANTS = Path(__file__).parents[1] / "results" / "reference" / "contestants"
FLOWS = ("nflows_coupling_nsf", "nflows_nsf", "normflows_nsf", "zuko_maf", "zuko_nsf")
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
