"""One clear line for everything that can be wrong with an event file or its options."""

from pathlib import Path

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 400


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


def test_no_rows(tmp_path, table, write):
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


def test_process_column_that_holds_no_names(tmp_path, table, write):
    table["detailed_labels"] = [[1, 2]] * N
    refuse(write(tmp_path / "lists.parquet", table), "'detailed_labels'", "expected process names")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["eta", "weights"])
def test_not_finite(tmp_path, table, name, value, write):
    table[name][[7, 30, 31]] = value
    refuse(write(tmp_path / "bad.parquet", table), "bad.parquet", f"'{name}'", f"3 of {N}", "row 7")


def test_null_features_and_processes(tmp_path, table, write):
    jets, names = table["jets"].tolist(), table["detailed_labels"].tolist()
    table["jets"] = [None, *jets[1:]]
    refuse(write(tmp_path / "a.parquet", table), "'jets'", f"1 of {N}", "row 0")
    table["jets"], table["detailed_labels"] = jets, [*names[:-2], None, None]
    refuse(write(tmp_path / "b.parquet", table), "'detailed_labels'", "2 have none")


def test_values_beyond_float32(tmp_path, table, write):
    table["eta"][3] = 1e300
    refuse(write(tmp_path / "large.parquet", table), "'eta'", "row 3")


def test_all_zero_weights(tmp_path, table, write):
    table["weights"] = np.zeros(N)
    refuse(write(tmp_path / "zero.parquet", table), "'weights'", "all 400 are zero")


def test_unknown_signal(path):
    refuse(path, "'hww'", "known: htautau, ttbar, ztautau", signal=["hww"])
    refuse(path, "expected signal processes; got none", signal=[])


def test_no_events_in_a_split(tmp_path, table, write):
    same = {name: np.asarray(values)[:1].repeat(10) for name, values in table.items()}
    same["detailed_labels"] = ["htautau"] * 10
    refuse(write(tmp_path / "same.parquet", same), "same.parquet", "split", "test_fraction")


def test_process_without_events_in_a_split(tmp_path, table, write):
    table["detailed_labels"][0] = "rare"
    refuse(write(tmp_path / "rare.parquet", table), "'rare'", "test_fraction")


def test_process_with_zero_yield(tmp_path, table, write):
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
