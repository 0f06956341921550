"""The reader of users' event files: what it delivers, and one clear line for everything wrong with a file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.event_table import hash_fraction

REAL = Path(__file__).parents[3] / "shared" / "data" / "FAIR_Universe_HiggsML_data.parquet"
N = 400


def columns(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "mass": rng.normal(90, 10, n).astype(np.float32),
        "jets": rng.integers(0, 4, n),
        "eta": np.where(rng.random(n) < 0.3, -25.0, rng.normal(0, 1, n)),
        "weights": rng.uniform(0.5, 2.0, n),
        "detailed_labels": rng.choice(["ztautau", "htautau", "ttbar"], n),
        "labels": rng.integers(0, 2, n).astype(np.float32),
        "comment": ["text"] * n,
    }


def write(path, table):
    pq.write_table(pa.table(table), path)
    return str(path)


@pytest.fixture
def table():
    return columns()


@pytest.fixture
def path(tmp_path, table):
    return write(tmp_path / "events.parquet", table)


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


def test_splits_follow_content_not_order_and_duplicates_stay_together(tmp_path):
    single = columns()
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


def test_kinds_of_process_columns(tmp_path, table):
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


def refuse(path, *words, **options):
    """The single line of the `InputError` that building the toy ends in."""
    with pytest.raises(InputError) as caught:
        build_toy("event_table", path=str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_no_file(tmp_path):
    refuse(tmp_path / "none.parquet", "none.parquet", "there is none")
    refuse(tmp_path, str(tmp_path), "there is none")


def test_path_is_required():
    with pytest.raises(InputError, match="option path"):
        build_toy("event_table")


def test_no_rows(tmp_path, table):
    empty = {name: np.asarray(values)[:0] for name, values in table.items()}
    refuse(write(tmp_path / "empty.parquet", empty), "empty.parquet", "0 rows")


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + b"\0" * 40 + b"PAR1"])
def test_not_parquet(tmp_path, content):
    file = tmp_path / "wrong.parquet"
    file.write_bytes(content)
    refuse(file, "wrong.parquet", "truncated or of another kind")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(path, share):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(share * len(content))])
    refuse(path, "events.parquet", "truncated")


def test_damaged_in_the_middle(path):
    content = bytearray(Path(path).read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    Path(path).write_bytes(bytes(content))
    refuse(path, "events.parquet", "truncated or of another kind")


@pytest.mark.parametrize(
    "options", [{"features": ["mass", "energy"]}, {"weight": "energy"}, {"process": "energy"}], ids=["features", "weight", "process"]
)
def test_missing_column(path, options):
    refuse(path, "events.parquet", "no column 'energy'", "mass, jets, eta", **options)


def test_unsuitable_columns(path):
    refuse(path, "'comment'", "expected numbers", features=["mass", "comment"])
    refuse(path, "'comment'", "expected numbers", weight="comment")
    refuse(path, "each feature once", features=["mass", "mass"])
    refuse(path, "at least one numeric feature", features=[])
    refuse(path, "at least one numeric feature", exclude=["mass", "jets", "eta", "labels"])


def test_process_column_that_holds_no_names(tmp_path, table):
    table["detailed_labels"] = [[1, 2]] * N
    refuse(write(tmp_path / "lists.parquet", table), "'detailed_labels'", "expected process names")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["eta", "weights"])
def test_not_finite(tmp_path, table, name, value):
    table[name][[7, 30, 31]] = value
    refuse(write(tmp_path / "bad.parquet", table), "bad.parquet", f"'{name}'", f"3 of {N}", "row 7")


def test_null_features_and_processes(tmp_path, table):
    jets, names = table["jets"].tolist(), table["detailed_labels"].tolist()
    table["jets"] = [None, *jets[1:]]
    refuse(write(tmp_path / "a.parquet", table), "'jets'", f"1 of {N}", "row 0")
    table["jets"], table["detailed_labels"] = jets, [*names[:-2], None, None]
    refuse(write(tmp_path / "b.parquet", table), "'detailed_labels'", "2 have none")


def test_values_beyond_float32(tmp_path, table):
    table["eta"][3] = 1e300
    refuse(write(tmp_path / "large.parquet", table), "'eta'", "row 3")


def test_all_zero_weights(tmp_path, table):
    table["weights"] = np.zeros(N)
    refuse(write(tmp_path / "zero.parquet", table), "'weights'", "all 400 are zero")


def test_unknown_signal(path):
    refuse(path, "'hww'", "known: htautau, ttbar, ztautau", signal=["hww"])
    refuse(path, "expected signal processes; got none", signal=[])


def test_no_events_in_a_split(tmp_path, table):
    same = {name: np.asarray(values)[:1].repeat(10) for name, values in table.items()}
    same["detailed_labels"] = ["htautau"] * 10
    refuse(write(tmp_path / "same.parquet", same), "same.parquet", "split", "test_fraction")


def test_process_without_events_in_a_split(tmp_path, table):
    table["detailed_labels"][0] = "rare"
    refuse(write(tmp_path / "rare.parquet", table), "'rare'", "test_fraction")


def test_process_with_zero_yield(tmp_path, table):
    table["weights"][table["detailed_labels"] == "ttbar"] = 0
    refuse(write(tmp_path / "zero.parquet", table), "'ttbar'", "yield of 0")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"test_fraction": 0.0}, "test_fraction"),
        ({"test_fraction": 1.5}, "test_fraction"),
        ({"mu_prior": (2.0, 1.0)}, "mu_prior"),
        ({"mu_prior": (-1.0, 1.0)}, "mu_prior"),
        ({"signal": "htautau"}, "signal"),
        ({"weigth": "w"}, "did you mean 'weight'"),
    ],
)
def test_bad_options(path, options, word):
    refuse(path, word, **options)


def test_reweighting_needs_labels_and_mu_within_bounds(path):
    toy = build_toy("event_table", path=path)
    pool = toy.pool("train")
    with pytest.raises(InputError, match="parameter mu"):
        toy.reweight(pool, torch.tensor([-0.1]))
    with pytest.raises(InputError, match="theta"):
        toy.reweight(pool, torch.tensor([1.0, 2.0]))
    with pytest.raises(InputError, match="labels"):
        toy.reweight(type(pool)(pool.x, pool.theta, pool.weight), torch.tensor([1.0]))


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
