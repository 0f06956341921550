"""Users' event files as a toy: features, processes, splits, weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.toys.base import build_toy
from touchneedle.toys.event_table import hash_fraction

REAL = Path(__file__).parents[3] / "shared" / "data" / "FAIR_Universe_HiggsML_data.parquet"
N = 400


def test_defaults_take_all_numeric_columns_but_weight_process_and_labels(path):
    spec = build_toy("event_table", path=path).spec
    assert [feature.name for feature in spec.features] == ["mass", "jets", "eta"]
    assert [feature.kind for feature in spec.features] == ["continuous", "discrete", "continuous"]
    assert [feature.missing for feature in spec.features] == [None, None, -25.0]
    assert spec.processes == ("htautau", "ttbar", "ztautau")
    assert spec.parameters.names == ("mu",)
    assert spec.parameters.nominal.tolist() == [1.0]


def test_version_holds_the_hash_of_the_content(path):
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert build_toy("event_table", path=path).spec.version == f"1+sha256:{digest[:12]}"


def test_events_are_the_rows_of_the_file(path, table):
    toy = build_toy("event_table", path=path, features=["eta", "mass"])
    pools = [toy.pool("train"), toy.pool("test")]
    x = torch.cat([pool.x for pool in pools])
    assert x.dtype == torch.float32
    rows = sorted(zip(table["eta"].astype(np.float32).tolist(), table["mass"].tolist(), table["detailed_labels"], strict=True))
    label = torch.cat([pool.label for pool in pools]).tolist()
    found = sorted((*row, toy.spec.processes[k]) for row, k in zip(x.tolist(), label, strict=True))
    assert found == [(a, b, str(c)) for a, b, c in rows]


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 3.0])
def test_rates_and_weights_in_closed_form(path, table, mu):
    toy = build_toy("event_table", path=path)
    sums = {name: table["weights"][table["detailed_labels"] == name].sum() for name in toy.spec.processes}
    expected = [mu * sums["htautau"], sums["ttbar"], sums["ztautau"]]
    theta = torch.tensor([mu], dtype=torch.float64)
    assert toy.rates(theta.unsqueeze(0))[0].tolist() == pytest.approx(expected, rel=1e-10)
    for split in ("train", "test"):
        pool = toy.pool(split)
        weight = toy.reweight(pool, theta)
        per_process = torch.bincount(pool.label, weight, minlength=3)
        assert per_process.tolist() == pytest.approx(expected, rel=1e-10)
        assert torch.equal(weight[pool.label != 0], pool.weight[pool.label != 0])
    assert toy.fit_events == round(sum(sums.values()))


def test_one_mu_per_event(path):
    toy = build_toy("event_table", path=path)
    pool = toy.pool("train")
    mu = torch.linspace(0.1, 3.0, len(pool), dtype=torch.float64).unsqueeze(-1)
    expected = pool.weight * torch.where(pool.label == 0, mu[:, 0], 1.0)
    assert torch.equal(toy.reweight(pool, mu), expected)


def test_several_signals(path, table):
    toy = build_toy("event_table", path=path, signal=["ttbar", "htautau"])
    rates = toy.rates(torch.tensor([[1.0], [2.0]]))
    assert (rates[1] / rates[0]).tolist() == [2.0, 2.0, 1.0]


def test_splits_follow_content_not_order_and_duplicates_stay_together(tmp_path, table, write):
    single = table
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(N), 2))
    double = {name: np.asarray(values)[order] for name, values in single.items()}
    toys = [build_toy("event_table", path=write(tmp_path / f"{i}.parquet", t)) for i, t in enumerate((single, double))]
    rows = [{split: {tuple(r) for r in toy.pool(split).x.tolist()} for split in ("train", "test")} for toy in toys]
    assert rows[0] == rows[1]
    assert not rows[1]["train"] & rows[1]["test"]
    assert len(toys[1].pool("train")) == 2 * len(toys[0].pool("train"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_test_fraction_is_met_within_binomial_error(share):
    x = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    found = (hash_fraction(x) < share).mean()
    assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / len(x))


def test_negative_zero_hashes_as_zero():
    zeros = np.array([[0.0, 1.0], [-0.0, 1.0]], dtype=np.float32)
    first, second = hash_fraction(zeros)
    assert first == second


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_hash_of_a_row_does_not_depend_on_its_neighbours(seed, d):
    x = np.random.default_rng(seed).normal(size=(20, d)).astype(np.float32)
    np.testing.assert_array_equal(hash_fraction(x)[5:9], hash_fraction(x[5:9]))


def test_kinds_of_process_columns(tmp_path, table, write):
    plain = build_toy("event_table", path=write(tmp_path / "plain.parquet", table)).pool("test")
    table["detailed_labels"] = pa.array(table["detailed_labels"]).dictionary_encode()
    assert torch.equal(build_toy("event_table", path=write(tmp_path / "dictionary.parquet", table)).pool("test").label, plain.label)
    table["detailed_labels"] = np.arange(N) % 3
    numbered = build_toy("event_table", path=write(tmp_path / "numbered.parquet", table), signal=["1"])
    assert numbered.spec.processes == ("0", "1", "2")


def test_missing_values_may_be_another_number_or_none(path):
    assert [f.missing for f in build_toy("event_table", path=path, missing=None).spec.features] == [None] * 3
    toy = build_toy("event_table", path=path, missing=0.0)
    assert [f.missing for f in toy.spec.features] == [None, 0.0, None]


def test_mu_prior_beyond_ten_widens_the_bounds(path):
    mu = build_toy("event_table", path=path, mu_prior=(0.0, 20.0)).spec.parameters.parameters[0]
    assert (mu.bounds, mu.prior.low, mu.prior.high) == ((0.0, 20.0), 0.0, 20.0)


def test_conformance(path):
    failures = [(result.name, result.message) for result in check_toy(build_toy("event_table", path=path)) if not result.passed]
    assert failures == []


@pytest.mark.skipif(not REAL.is_file(), reason="the 1,000 events of the FAIR Universe sample are not beside the project")
def test_real_events():
    about = json.loads(REAL.with_name("FAIR_Universe_HiggsML_data_metadata.json").read_text())
    toy = build_toy("event_table", path=str(REAL))
    assert toy.spec.processes == tuple(sorted(about["detailed_labels"]))
    assert [f.name for f in toy.spec.features] == [c for c in about["columns"] if c not in ("weights", "detailed_labels", "labels")]
    assert len(toy.pool("train")) + len(toy.pool("test")) == about["total_rows"]
    nominal = toy.spec.parameters.nominal.unsqueeze(0)
    assert toy.expected_events(nominal).item() == pytest.approx(about["sum_weights"], rel=1e-6)
    missing = {f.name for f in toy.spec.features if f.missing == -25.0}
    assert missing == {n for n in about["columns"] if "jet_leading" in n or "subleading" in n or "_jet_jet" in n or "lep_eta_cent" in n}
    assert all(result.passed for result in check_toy(toy))
