"""Shifts declared in Python: the worked example of the docstring, moved features, events that cross the selection, yields that follow."""

import inspect
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.benchmark.data import make_events
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy, concatenate
from touchneedle.toys.event_table import EventTable

N = 4_000
DERIVED = {"mass": "sqrt(2 * tau_pt * lep_pt * (1 - cos(dphi)))"}
SELECTION = "(tau_pt > 26) & (lep_pt > 20)"


@pytest.fixture
def events(tmp_path):
    rng = np.random.default_rng(0)
    signal = rng.random(N) < 0.3
    weights = rng.uniform(0.5, 1.5, N)
    tau = 15 + rng.exponential(np.where(signal, 25, 15))
    table = {
        "tau_pt": tau,
        "lep_pt": 15 + rng.exponential(20, N),
        "dphi": rng.uniform(0.5, 3, N),
        "weights": weights,
        "up": weights * np.exp(0.01 * (tau - 30)),
        "down": weights * np.exp(-0.01 * (tau - 30)),
        "detailed_labels": np.where(signal, "htautau", "ztautau"),
    }
    pq.write_table(pa.table(table), tmp_path / "events.parquet", row_group_size=1_000)
    return table


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    """The worked example of the docstring, loaded as a plugin file is."""
    monkeypatch.setattr(registry.toys, "_registered", {})
    example = inspect.getdoc(EventTable).split("--plugin``::\n")[1].split("\nAttributes:")[0]
    file = tmp_path / "scaled_table.py"
    file.write_text(textwrap.dedent(example))
    registry.load_plugin_file(file)


def build(tmp_path, **options):
    options = {"features": ["mass", "lep_pt"], "derived": DERIVED, "selection": SELECTION, "mu_prior": (0.0, 5.0)} | options
    return build_toy("scaled_table", path=str(tmp_path / "events.parquet"), **options)


def point(toy, **values):
    theta = toy.spec.parameters.nominal.clone()
    for name, value in values.items():
        theta[toy.spec.parameters.index(name)] = value
    return theta


def ever_selected(events):
    """At the upper edge of the energy scale, which is where most are."""
    return (1.1 * events["tau_pt"] > 26) & (events["lep_pt"] > 20)


def test_the_example_is_a_toy_of_its_own(tmp_path, events):
    toy = build(tmp_path)
    assert toy.spec.name == "scaled_table"
    assert toy.spec.parameters.names == ("mu", "tes")
    assert [feature.name for feature in toy.spec.features] == ["mass", "lep_pt"]
    pools = [toy.pool(split) for split in ("train", "test")]
    assert sum(map(len, pools)) == ever_selected(events).sum()
    selected = (events["tau_pt"] > 26) & (events["lep_pt"] > 20)
    assert sum(int((pool.weight > 0).sum()) for pool in pools) == selected.sum()


@pytest.mark.parametrize("tes", [0.92, 1.0, 1.07])
def test_features_and_selection_are_those_of_shifted_columns(tmp_path, events, tes):
    toy = build(tmp_path)
    moved = concatenate([toy.at(toy.pool(split), point(toy, tes=tes)) for split in ("train", "test")])
    tau = tes * events["tau_pt"]
    mass = np.sqrt(2 * tau * events["lep_pt"] * (1 - np.cos(events["dphi"])))
    selected = (tau > 26) & (events["lep_pt"] > 20)
    order = np.argsort(np.where(ever_selected(events), events["lep_pt"], np.inf))[: len(moved)]
    found = torch.argsort(moved.x[:, 1]).numpy()
    np.testing.assert_allclose(moved.x[found, 0], mass[order], rtol=1e-5)
    np.testing.assert_array_equal(moved.weight[found] > 0, selected[order])


def test_yields_follow_the_selection(tmp_path, events):
    toy = build(tmp_path)
    base = toy.rates(point(toy)[None])[0]
    for tes in (0.9, 0.95, 1.0, 1.05, 1.1):
        selected = (tes * events["tau_pt"] > 26) & (events["lep_pt"] > 20)
        of = [events["weights"][selected & (events["detailed_labels"] == p)].sum() for p in toy.spec.processes]
        rates = toy.rates(point(toy, tes=tes)[None])[0]
        assert rates.tolist() == pytest.approx(of, rel=1e-12 if tes == 1 else 0.03)
    up = toy.rates(point(toy, tes=1.1)[None])[0]
    assert bool((up > 1.1 * base).all())


def test_shifts_and_variations_together(tmp_path, events):
    toy = build(tmp_path, variations={"shape": {"down": "down", "up": "up"}}, norms={"ztautau": 0.1})
    assert toy.spec.parameters.names == ("mu", "norm_ztautau", "shape", "tes")
    theta = point(toy, mu=2.0, norm_ztautau=1.1, shape=1.0, tes=1.05)
    selected = (1.05 * events["tau_pt"] > 26) & (events["lep_pt"] > 20)
    factor = {"htautau": 2.0, "ztautau": 1.1}
    of = [factor[p] * events["up"][selected & (events["detailed_labels"] == p)].sum() for p in toy.spec.processes]
    assert toy.rates(theta[None])[0].tolist() == pytest.approx(of, rel=0.02)
    assert [(result.name, result.message) for result in check_toy(toy) if not result.passed] == []


def test_training_events(tmp_path, events):
    toy = build(tmp_path)
    shown = make_events(toy, 900, "prior", seed=0)
    assert shown.x.isfinite().all()
    assert shown.base is None
    assert shown.weight.mean().item() == pytest.approx(1)


def test_shifted_events_must_stay_defined(tmp_path, events):
    with pytest.raises(InputError, match="toy scaled_table: expected finite features of shifted events"):
        build(tmp_path, features=["edge"], derived={"edge": "log(tau_pt - 15)"}, selection="tau_pt > 0")
    toy = build(tmp_path, features=["edge"], derived={"edge": "log(tau_pt - 15)"}, selection="tau_pt > 20")
    assert toy.at(toy.pool("test"), point(toy, tes=0.95)).x.isfinite().all()


def test_a_variation_may_not_have_the_name_of_a_shift(tmp_path, events):
    with pytest.raises(InputError, match="names that are no parameters yet; got mu, tes, tes"):
        build(tmp_path, variations={"tes": {"down": "down", "up": "up"}})


def test_a_shift_of_a_column_that_is_not_read(tmp_path, events, monkeypatch):
    monkeypatch.setattr(registry.toys.load("scaled_table"), "shift_columns", ())
    with pytest.raises(InputError, match=r"_shift uses 'tau_pt', which is not read: name it in shift_columns"):
        build(tmp_path, features=["lep_pt"], derived={}, selection="")
    monkeypatch.setattr(registry.toys.load("scaled_table"), "_shift", lambda toy, columns, theta: {"lep": columns["lep_pt"]})
    with pytest.raises(InputError, match=r"_shift uses 'lep', which is not read"):
        build(tmp_path, features=["lep_pt"], derived={}, selection="")


def test_a_column_that_the_shift_needs_must_be_there(tmp_path, events):
    pq.write_table(pa.table({name: events[name] for name in events if name != "tau_pt"}), tmp_path / "events.parquet")
    with pytest.raises(InputError, match="no column 'tau_pt'"):
        build(tmp_path, features=["lep_pt"], derived={}, selection="")
