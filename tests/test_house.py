"""What the committed records of the sweep `house` say, held against what the project promises."""

import statistics
from pathlib import Path

import pytest

from touchneedle.benchmark.records import Record, read_records

HOUSE = Path(__file__).parents[1] / "results" / "reference" / "house"
EXACT = ("fnf_two_class", "gaussian_shift", "mass_bump", "two_moons")
REGULAR = ("fnf_two_class", "gaussian_shift", "mass_bump")
LEARNED = ("posterior_flow", "ratio_bce", "zuko_nsf")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return read_records(HOUSE)


def values(records: list[Record], toy: str, estimator: str, name: str, **at: object) -> list[float | None]:
    return [
        row.value
        for record in records
        if (record.toy.name, record.estimator.name, record.status) == (toy, estimator, "ok")
        for row in record.metrics
        if row.name == name and all(row.at.get(key) == value for key, value in at.items())
    ]


@pytest.mark.parametrize("toy", EXACT)
@pytest.mark.parametrize("estimator", LEARNED)
def test_three_seeds_of_every_learned_method_on_every_exact_toy(records: list[Record], toy: str, estimator: str) -> None:
    found = [r for r in records if (r.toy.name, r.estimator.name) == (toy, estimator)]
    assert sorted(record.seed for record in found) == [0, 1, 2]
    assert {(record.status, record.budget.n_train) for record in found} == {("ok", 100_000)}
    points = {row.at.get("point") for record in found for row in record.metrics if row.name == "n_star"}
    assert points == ({0, 1, 2} if toy in REGULAR else {None})


@pytest.mark.parametrize("toy", EXACT)
def test_the_oracle_has_no_divergence(records: list[Record], toy: str) -> None:
    found = values(records, toy, "oracle", "kl")
    assert found
    assert all(value == pytest.approx(0, abs=1e-9) for value in found)


@pytest.mark.parametrize("estimator", ["zuko_nsf", "ratio_bce"])
def test_bias_on_gaussian_shift_is_small(records: list[Record], estimator: str) -> None:
    biases = values(records, "gaussian_shift", estimator, "bias_vs_oracle", parameter="shift", point=0, n_events=1_000)
    assert len(biases) == 3
    assert statistics.median(abs(value) for value in biases if value is not None) < 0.3


@pytest.mark.parametrize("toy", REGULAR)
def test_controls_stand_in_their_known_order(records: list[Record], toy: str) -> None:
    parameter = {"fnf_two_class": "fraction_b", "gaussian_shift": "shift", "mass_bump": "fraction"}[toy]
    at = {"parameter": parameter, "point": 0, "n_events": 1_000}
    (shifted,) = values(records, toy, "oracle_shifted", "bias_vs_oracle", **at)
    (narrow,) = values(records, toy, "oracle_narrow", "width_vs_oracle", **at)
    (gaussian,) = values(records, toy, "best_gaussian", "kl", point=0)
    assert shifted == pytest.approx(-0.5, abs=0.1)
    assert narrow is not None
    assert 0.85 < narrow < 0.99
    assert gaussian is not None
    assert gaussian > 0
