"""The committed records of the contestants: flows on fnf_two_class against their targets, and what fits of every kind say."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from touchneedle.benchmark.records import Metric, Record, read_records
from touchneedle.reports.repeat import repeat_command

ROOT = Path(__file__).parents[1]
CONTESTANTS = ROOT / "results" / "reference" / "contestants"
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


def profiled(records: list[Record], toy: str) -> dict[str, Record]:
    """The records of the sweep `profiled` on one toy, by estimator."""
    return {r.estimator.name: r for r in records if r.toy.name == toy and r.config["evaluation"]["families"] == ["fit"]}


def rows(record: Record, name: str) -> list[Metric]:
    return [row for row in record.metrics if row.name == name and row.value is not None]


def of_the_sweep() -> set[str]:
    """Every estimator that the sweep `profiled` trains."""
    sweep = OmegaConf.load(ROOT / "conf" / "sweep" / "profiled.yaml")
    lists = [sweep["hydra"]["sweeper"]["params"]["estimator"], *(block["estimator"] for block in sweep["also"])]
    return {name.strip() for names in lists for name in names.split(",")}


@pytest.mark.parametrize("toy", ["amplitude_interference", "fnf_two_class", "mass_bump"])
def test_the_sweep_is_complete(records: list[Record], toy: str) -> None:
    assert set(profiled(records, toy)) == of_the_sweep()


@pytest.mark.parametrize("toy", ["fnf_two_class", "mass_bump"])
def test_every_method_reports_the_fitted_fraction_beside_the_oracle(records: list[Record], toy: str) -> None:
    """Counting alone has no answer: neither fraction moves the number of events, and all its fits fail."""
    found = profiled(records, toy)
    for name in of_the_sweep():
        numbers = [row for row in rows(found[name], "bias_vs_oracle") if row.at["parameter"] in ("fraction", "fraction_b")]
        if name == "counting":
            assert not numbers
            assert [row.value for row in rows(found[name], "failed_fits")] == [1.0, 1.0]
        else:
            assert [row.at["n_events"] for row in numbers] == [100, 1000], name
            assert all(row.stderr is not None and (row.stderr > 0 or name == "oracle") for row in numbers), name


@pytest.mark.parametrize("name", sorted(of_the_sweep() - {"oracle", "counting", "best_gaussian"}))
def test_fits_of_every_method_look_for_both_solutions_of_an_interference(records: list[Record], name: str) -> None:
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
