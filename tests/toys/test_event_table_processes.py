"""Tables of several files: a process each, selections, derived features, norms, weight variations; what is wrong with them."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.inference.rate_fit import fit_rate_model
from touchneedle.toys.base import GaussianConstraint, LogNormalConstraint, build_toy, concatenate
from touchneedle.toys.weight_variations import mirrored, varied_weights

N = 600
SIZES = {"signal": N, "top": N // 2, "zed": N}


def columns(process, n):
    """Muon-like events of a process with weights, a tenth of them negative, and two variations of the weights."""
    rng = np.random.default_rng(sorted(SIZES).index(process))
    pt = rng.exponential({"signal": 40, "top": 30, "zed": 20}[process], n).astype(np.float32)
    weights = rng.uniform(0.5, 1.5, n) * np.where(rng.random(n) < 0.1, -1, 1)
    return {
        "pt": pt,
        "phi": rng.uniform(-math.pi, math.pi, n),
        "n_jets": rng.integers(0, 4, n),
        "weights": weights,
        "isr_down": weights * np.exp(-0.002 * pt),
        "isr_up": weights * np.exp(0.003 * pt),
        "pdf_down": weights * 0.9,
        "pdf_up": weights * np.where(rng.random(n) < 0.05, -0.2, 1.2),
    }


@pytest.fixture
def tables():
    return {process: columns(process, n) for process, n in SIZES.items()}


@pytest.fixture
def folder(tmp_path, tables):
    """signal.parquet, zed.parquet, and the top pairs in two files."""
    for process, table in tables.items():
        save(tmp_path / f"{process}.parquet", table)
    half = SIZES["top"] // 2
    for k, rows in enumerate((slice(None, half), slice(half, None))):
        save(tmp_path / f"top{k}.parquet", {name: values[rows] for name, values in tables["top"].items()})
    return tmp_path


def save(path, table, **options):
    pq.write_table(pa.table(table), path, **options)


FILES = {"signal": "signal.parquet", "top": ["top0.parquet", "top1.parquet"], "zed": "zed.parquet"}
UNUSED = ["isr_down", "isr_up", "pdf_down", "pdf_up"]
ISR = {"down": "isr_down", "up": "isr_up"}
PDF = {"down": "pdf_down", "up": "pdf_up", "processes": ["top"]}


def build(folder, **options):
    return build_toy("event_table", **{"path": str(folder), "processes": FILES, "signal": ["signal"], "exclude": UNUSED} | options)


def point(toy, **values):
    theta = toy.spec.parameters.nominal.clone()
    for name, value in values.items():
        theta[toy.spec.parameters.index(name)] = value
    return theta


def everything(toy):
    return concatenate([toy.pool("train"), toy.pool("test")])


def refuse(folder, *words, **options):
    with pytest.raises(InputError) as caught:
        build(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_every_file_is_its_process(folder, tables):
    toy = build(folder)
    assert toy.spec.processes == ("signal", "top", "zed")
    assert [feature.name for feature in toy.spec.features] == ["pt", "phi", "n_jets"]
    events = everything(toy)
    for k, process in enumerate(toy.spec.processes):
        assert sorted(events.x[events.label == k, 0].tolist()) == sorted(tables[process]["pt"].tolist())
    sums = [tables[process]["weights"].sum() for process in toy.spec.processes]
    assert toy.rates(toy.spec.parameters.nominal[None])[0].tolist() == pytest.approx(sums, rel=1e-12)


def test_row_groups_and_files_do_not_matter(folder, tables, tmp_path):
    (tmp_path / "whole").mkdir()
    for process, table in tables.items():
        save(tmp_path / "whole" / f"{process}.parquet", table, row_group_size=70)
    whole = build(tmp_path / "whole", processes={process: f"{process}.parquet" for process in FILES})
    parts = build(folder)
    for split in ("train", "test"):
        assert torch.equal(whole.pool(split).x, parts.pool(split).x)
        assert torch.equal(whole.pool(split).weight, parts.pool(split).weight)


def test_weights_of_one_and_given_yields(folder):
    toy = build(folder, weight=None, yields={"signal": 12.5}, exclude=[*UNUSED, "weights"])
    assert toy.rates(toy.spec.parameters.nominal[None])[0].tolist() == pytest.approx([12.5, N // 2, N])
    assert toy.fit_events == round(12.5 + N // 2 + N)


def test_the_same_row_in_two_files_is_in_one_split(folder, tables):
    twice = {name: np.concatenate([values, values[:50]]) for name, values in tables["signal"].items()}
    save(folder / "signal.parquet", twice)
    save(folder / "zed.parquet", {name: np.concatenate([tables["zed"][name], values[:50]]) for name, values in tables["signal"].items()})
    toy = build(folder)
    rows = [{tuple(row) for row in toy.pool(split).x.tolist()} for split in ("train", "test")]
    assert not rows[0] & rows[1]
    assert len(everything(toy)) == sum(SIZES.values()) + 100


def test_derived_features_and_selection_are_those_of_numpy(folder, tables):
    derived = {"px": "pt * cos(phi)", "py": "pt * sin(phi)", "back": "hypot(px, py)", "is_hard": "pt > 30"}
    toy = build(folder, derived=derived, selection="(pt > 10) & (n_jets >= 1) & (back < 1e3)", features=["back", "px", "is_hard"])
    assert [(feature.name, feature.kind) for feature in toy.spec.features] == [
        ("back", "continuous"), ("px", "continuous"), ("is_hard", "discrete"),
    ]  # fmt: skip
    events = everything(toy)
    sums = []
    for k, process in enumerate(toy.spec.processes):
        of = tables[process]
        kept = (of["pt"] > 10) & (of["n_jets"] >= 1)
        found = events.x[events.label == k].numpy()
        order, expected = np.argsort(found[:, 1]), np.argsort((of["pt"] * np.cos(of["phi"]))[kept])
        np.testing.assert_allclose(found[order, 0], of["pt"][kept][expected], rtol=1e-5)
        np.testing.assert_array_equal(found[order, 2], (of["pt"] > 30)[kept][expected])
        sums.append(of["weights"][kept].sum())
    assert toy.rates(toy.spec.parameters.nominal[None])[0].tolist() == pytest.approx(sums)


def test_by_default_derived_features_stand_beside_the_stored_ones(folder):
    assert [feature.name for feature in build(folder, derived={"px": "pt * cos(phi)"}).spec.features] == ["pt", "phi", "n_jets", "px"]


def test_what_the_selection_leaves_out_may_be_undefined(folder, tables):
    tables["zed"]["pt"][:5] = np.nan
    save(folder / "zed.parquet", tables["zed"])
    refuse(folder, "zed.parquet", "'pt'", "5 of 600", "row 0")
    toy = build(folder, selection="isfinite(pt)")
    assert len(everything(toy)) == sum(SIZES.values()) - 5


def test_norms_multiply_the_rates(folder):
    toy = build(folder, norms={"top": 0.2, "zed": None})
    assert toy.spec.parameters.names == ("mu", "norm_top", "norm_zed")
    top, zed = toy.spec.parameters.parameters[1:]
    assert top.constraint == LogNormalConstraint(1.2)
    assert top.template_anchors == pytest.approx((1 / 1.2, 2 - 1 / 1.2))
    assert zed.constraint is None
    nominal, moved = toy.rates(torch.stack([point(toy), point(toy, mu=2.0, norm_top=1.3, norm_zed=0.4)]))
    assert (moved / nominal).tolist() == pytest.approx([2.0, 1.3, 0.4])
    pool = toy.pool("test")
    ratio = toy.reweight(pool, point(toy, mu=2.0, norm_top=1.3, norm_zed=0.4)) / pool.weight
    assert ratio.tolist() == pytest.approx([(2.0, 1.3, 0.4)[k] for k in pool.label.tolist()], rel=1e-12)


def test_variations_are_exact_at_their_anchors(folder, tables):
    toy = build(folder, variations={"isr": ISR, "pdf": PDF}, exclude=[])
    assert toy.spec.parameters.names == ("mu", "isr", "pdf")
    assert [parameter.constraint for parameter in toy.spec.parameters.parameters[1:]] == [GaussianConstraint(1.0)] * 2
    assert [feature.name for feature in toy.spec.features] == ["pt", "phi", "n_jets"]
    for name, value, column in (("isr", -1.0, "isr_down"), ("isr", 1.0, "isr_up"), ("pdf", -1.0, "pdf_down"), ("pdf", 1.0, "pdf_up")):
        expected = [tables[p][column if name == "isr" or p == "top" else "weights"].sum() for p in toy.spec.processes]
        assert toy.rates(point(toy, **{name: value})[None])[0].tolist() == pytest.approx(expected, rel=1e-9)
        for split in ("train", "test"):
            pool = toy.pool(split)
            ratio = (toy.reweight(pool, point(toy, **{name: value})) / pool.weight).numpy()
            of = {float(pt): w / v for t in tables.values() for pt, w, v in zip(t["pt"], t[column], t["weights"], strict=True)}
            varied = (pool.label.numpy() == 1) | (name == "isr")
            wanted = np.where(varied, [of[pt] for pt in pool.x[:, 0].tolist()], 1.0)
            np.testing.assert_allclose(ratio, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [({"isr": 0.3}, 1e-6), ({"isr": -2.7, "mu": 0.5}, 1e-6), ({"pdf": 1.7}, 1e-6), ({"isr": 1.5, "pdf": -1.5, "norm_zed": 1.2}, 1e-3)],
)
def test_yields_follow_the_weights_between_and_beyond_the_anchors(folder, tables, values, tolerance):
    toy = build(folder, variations={"isr": ISR, "pdf": PDF}, norms={"zed": 0.1})
    expected = []
    for process in toy.spec.processes:
        of, factor = tables[process], values.get({"signal": "mu", "zed": "norm_zed"}.get(process), 1.0)
        pdf = ("pdf_down", "pdf_up") if process == "top" else ("weights", "weights")
        weights = torch.from_numpy(np.stack([of[name] for name in ("weights", "isr_down", "isr_up", *pdf)], axis=1))
        alpha = torch.tensor([[values.get("isr", 0.0), values.get("pdf", 0.0)]], dtype=torch.float64).expand(len(weights), -1)
        expected.append(factor * varied_weights(weights, alpha).sum().item())
    assert toy.rates(point(toy, **values)[None])[0].tolist() == pytest.approx(expected, rel=tolerance)


def test_rates_are_described_by_a_rate_model(folder):
    toy = build(folder, variations={"isr": ISR}, norms={"zed": 0.1})
    assert fit_rate_model(toy.spec.parameters, toy.rates).worst_deviation < 0.02


def test_templates_hold_the_weights_of_the_variation(folder):
    toy = build(folder, variations={"isr": ISR})
    events = make_events(toy, 500, "templates", seed=0)
    assert set(events.theta[:, 1].tolist()) == {-1.0, 0.0, 1.0}
    assert events.base is None
    assert events.weight.mean().item() == pytest.approx(1)


def test_conformance(folder):
    toy = build(
        folder, variations={"isr": ISR, "pdf": PDF}, norms={"top": 0.2, "zed": None}, derived={"px": "pt*cos(phi)"}, selection="pt > 5"
    )
    assert [(result.name, result.message) for result in check_toy(toy) if not result.passed] == []


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_variation_to_one_side_is_mirrored(folder, tables, side):
    name, column = ("up", "isr_up") if side > 0 else ("down", "isr_down")
    toy = build(folder, variations={"isr": {name: column}, "pdf": PDF})
    pool = toy.pool("test")
    there, back = (toy.reweight(pool, point(toy, isr=value)) / pool.weight for value in (side, -side))
    of = {float(pt): w / v for t in tables.values() for pt, w, v in zip(t["pt"], t[column], t["weights"], strict=True)}
    np.testing.assert_allclose(there, [of[pt] for pt in pool.x[:, 0].tolist()], rtol=1e-12)
    np.testing.assert_allclose(there * back, 1.0, rtol=1e-12)


def test_mirror_images_of_weights_that_have_no_ratio():
    nominal, varied = np.array([2.0, 2.0, 2.0, -1.0]), np.array([4.0, 0.0, -1.0, -0.5])
    assert mirrored(nominal, varied).tolist() == [1.0, 4.0, 5.0, -2.0]


def test_a_pattern_is_all_its_files(folder, tables):
    whole, parts = build(folder), build(folder, processes=FILES | {"top": "top[01].parquet"})
    assert torch.equal(whole.pool("train").x, parts.pool("train").x)
    assert whole.spec.version == parts.spec.version
    together = build_toy("event_table", path=str(folder / "top[01].parquet"), process="n_jets", signal=["1"], exclude=UNUSED)
    assert len(everything(together)) == SIZES["top"]
    refuse(folder, "top?.root", "expected a ROOT file; there is none", processes=FILES | {"top": "top?.root"})


def test_variations_of_one_file_with_a_process_column(tmp_path, tables):
    together = {name: np.concatenate([table[name] for table in tables.values()]) for name in tables["signal"]}
    together["kind"] = np.repeat(list(tables), [len(table["pt"]) for table in tables.values()])
    save(tmp_path / "all.parquet", together)
    options = {"variations": {"isr": ISR, "pdf": PDF}, "exclude": [], "signal": ["signal"]}
    toy = build_toy("event_table", path=str(tmp_path / "all.parquet"), process="kind", **options)
    theta = point(toy, pdf=1.0)
    expected = [tables["signal"]["weights"].sum(), tables["top"]["pdf_up"].sum(), tables["zed"]["weights"].sum()]
    assert toy.rates(theta[None])[0].tolist() == pytest.approx(expected)


# What is wrong.


def test_mixed_schemas_name_both_files_and_the_difference(folder, tables):
    half = {name: values[:50] for name, values in tables["top"].items()}
    save(folder / "top1.parquet", half | {"phi": half["phi"].astype(np.float32)})
    refuse(folder, "top0.parquet", "top1.parquet", "'phi' is double in the first and float in the second")
    save(folder / "top1.parquet", {name: values for name, values in half.items() if name != "isr_up"})
    refuse(folder, "top0.parquet", "top1.parquet", "'isr_up' is double in the first and missing in the second")
    save(folder / "top1.parquet", half)
    save(folder / "zed.parquet", {name: values for name, values in tables["zed"].items() if name != "pt"})
    refuse(folder, "signal.parquet", "zed.parquet", "'pt' is float in the first and missing in the second")


def test_a_process_may_lack_the_variations_of_others(folder, tables):
    save(folder / "zed.parquet", {name: values for name, values in tables["zed"].items() if not name.startswith("pdf")})
    assert build(folder, variations={"pdf": PDF}).spec.parameters.names == ("mu", "pdf")
    refuse(folder, "zed.parquet", "no column 'pdf_down'", variations={"pdf": {"down": "pdf_down", "up": "pdf_up"}})


def test_no_selected_events(folder):
    refuse(folder, "signal.parquet", "'signal'", "selection 'pt > 1e6' leaves none of 600 events", selection="pt > 1e6")


def test_negative_total_weight(folder, tables):
    save(folder / "zed.parquet", tables["zed"] | {"weights": -tables["zed"]["weights"]})
    refuse(folder, "'zed'", "expected a positive sum of weights", "yield of -")


def test_a_varied_yield_that_is_not_positive(folder, tables):
    save(folder / "zed.parquet", tables["zed"] | {"isr_down": -0.5 * tables["zed"]["weights"]})
    refuse(folder, "expected a positive sum of weights everywhere", "at isr = -4", variations={"isr": ISR})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selection": "pt.real > 1"}, ("found an attribute", "character 1")),
        ({"selection": "pt + 1"}, ("expected a condition",)),
        ({"selection": "ptt > 1"}, ("no column 'ptt'", "did you mean 'pt'")),
        ({"derived": {"px": "__import__('os')"}}, ("found a call of '__import__'",)),
        ({"derived": {"px": "py + pt", "py": "pt"}}, ("no column 'py'",)),
        ({"derived": {"pt": "phi * 2"}}, ("'pt'", "stored already")),
        ({"derived": {"p x": "phi * 2"}}, ("'p x'", "expected a name")),
        ({"derived": {"px": "log(pt - 1e9)"}}, ("signal.parquet", "'px'", "600 of 600")),
        ({"signal": ["higgs"]}, ("signal", "'higgs'", "known: signal, top, zed")),
        ({"norms": {"higgs": 0.1}}, ("norms", "'higgs'")),
        ({"norms": {"top": -0.1}}, ("norms", "top", "-0.1")),
        ({"yields": {"higgs": 1.0}}, ("yields", "'higgs'")),
        ({"yields": {"top": 0.0}}, ("yields", "top", "positive")),
        ({"variations": {"isr": ISR | {"processes": ["higgs"]}}}, ("variations: isr", "'higgs'")),
        ({"variations": {"isr": {}}}, ("variations: isr", "expected weight columns")),
        ({"variations": {"isr": {"up": "isr_top"}}}, ("no column 'isr_top'",)),
        ({"variations": {"mu": ISR}}, ("names that are no parameters yet",)),
        ({"variations": {"isr": {"up": "isr_top", "down": "isr_down"}}}, ("no column 'isr_top'",)),
        ({"processes": {"signal": []}}, ("processes", "signal", "got none")),
        ({"processes": {"signal": "none.parquet"}}, ("none.parquet", "there is none")),
        ({"path": "no/such/folder"}, ("option path", "folder")),
    ],
)
def test_bad_options(folder, options, words):
    refuse(folder, *words, **options)


def test_root_files_are_read_as_parquet_is(folder, tables):
    uproot = pytest.importorskip("uproot", reason="uproot (extra hep) is not installed")
    for process in ("signal", "zed"):
        with uproot.recreate(folder / f"{process}.root") as file:
            file["events"] = tables[process]
    files = FILES | {"signal": "signal.root", "zed": "zed.root"}
    toy, plain = (build(folder, processes=of, features=["pt", "phi"], variations={"isr": ISR}) for of in (files, FILES))
    for split in ("train", "test"):
        for name in ("x", "weight", "label", "base"):
            assert torch.equal(getattr(toy.pool(split), name), getattr(plain.pool(split), name))
    refuse(folder, "signal.root", "no tree 'other'; its trees are events", processes=files, tree="other")
