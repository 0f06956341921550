"""Tau pairs from Pythia: features by hand, yields, reweighting, mined gold, the committed sample and what may be wrong with another."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, build_toy
from touchneedle.toys.generated import read_generated
from touchneedle.toys.higgs_tautau import SAMPLE
from touchneedle.toys.pythia import LEAST_WEIGHT
from touchneedle.toys.tau_pair_features import FEATURES
from touchneedle.toys.tau_pair_history import LATENT, NAMES

X = [feature.name for feature in FEATURES]
MAX_PULL = 4.5
STEPS = dict.fromkeys(("mu", "tes", "jes", "ttbar_scale", "diboson_scale", "bkg_scale"), 0.0001) | {"soft_met": 1e-3, "isr": 1e-3}
FAR = {"mu": 1.7, "tes": 1.02, "jes": 0.98, "soft_met": 2.5, "ttbar_scale": 1.1, "diboson_scale": 0.6, "bkg_scale": 1.04, "isr": -1.5}


@pytest.fixture(scope="module")
def toy():
    return build_toy("higgs_tautau")


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("higgs_tautau_golden", Path(__file__).with_name("higgs_tautau_golden.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def columns():
    return read_generated(SAMPLE, "higgs_tautau")[0]


def point(toy, **values):
    """Theta (8,): nominal but for ``values``."""
    theta = toy.spec.parameters.nominal.clone()
    for name, value in values.items():
        theta[toy.spec.parameters.index(name)] = value
    return theta


def weighted_pull(values, weight, expected=0.0):
    """Distance of weighted means from the expected ones in their errors, the largest of the columns."""
    share = (weight / weight.sum()).reshape(-1, *[1] * (values.ndim - 1))
    error = (share * (values - expected)).square().sum(0).sqrt()
    return (((share * values).sum(0) - expected) / error).abs().max().item()


# What is measured.


@pytest.mark.parametrize("values", [{}, {"tes": 1.03}, {"jes": 0.95}, {"soft_met": 0.0}, {"tes": 0.93, "jes": 1.08, "soft_met": 4.0}])
def test_features_are_those_of_one_event_at_a_time(toy, golden, four_vector_features, values):
    pool = toy.pool("test")
    pool = pool[:: len(pool) // 150]
    events = toy.at(pool, point(toy, **values))
    for row, x, weight in zip(pool.base.tolist(), events.x.tolist(), events.weight.tolist(), strict=True):
        expected = golden.features(dict(zip(LATENT, row, strict=False)), four_vector_features, **values)
        assert (expected is not None) == (weight > 0)
        if expected is not None:
            np.testing.assert_allclose(x, [expected[name] for name in X], rtol=2e-5, atol=2e-5)


def test_the_sample_is_as_it_was_counted(toy, golden):
    """Yields and means of features at eight points, against numbers that plain Python counted."""
    counted = json.loads(golden.GOLDEN.read_text())
    assert toy.spec.version == f"1+sha256:{counted['key'][:12]}"
    pool = toy.pool("test")
    for name, expected in counted["points"].items():
        events = toy.at(pool, point(toy, **golden.POINTS[name]))
        for label, process in enumerate(NAMES):
            chosen = events.label == label
            weight = events.weight[chosen] / pool.base[chosen, -1]
            found = [weight.sum(), *(weight @ events.x[chosen].double() / weight.sum())]
            np.testing.assert_allclose(found, expected[process], rtol=1e-4, atol=1e-4, err_msg=f"{name} {process}")


def test_visible_masses_grow_with_the_root_of_the_tau_scale(toy):
    pool = toy.pool("train")
    pool = pool[pool.weight > 0]
    events = toy.at(pool, point(toy, tes=1.03))
    assert torch.allclose(events.x[:, X.index("DER_mass_vis")], pool.x[:, X.index("DER_mass_vis")] * 1.03**0.5, rtol=1e-5)
    assert torch.equal(events.weight, pool.weight)


def mean_change(toy, process, feature, **values):
    """Relative change of the mean of a feature in one process."""
    means = []
    for theta in (toy.spec.parameters.nominal, point(toy, **values)):
        events = [toy.at(toy.pool(split), theta) for split in ("train", "test")]
        x, weight, label = (torch.cat([getattr(e, name) for e in events]) for name in ("x", "weight", "label"))
        weight = weight * (label == NAMES.index(process))
        means.append((weight @ x[:, X.index(feature)].double()) / weight.sum())
    return (means[1] / means[0] - 1).item()


@pytest.mark.parametrize("sign", [1, -1])
def test_scales_move_gluon_fusion_as_in_a_study_of_its_own(toy, sign):
    """There 3 % of tes moved yields by 3.7 and -2.4 %, mean visible masses by 1.3 and -1.2 %; 3 % of jes the jets by 2.9 and -2.4 %."""
    tes, jes = point(toy, tes=1 + 0.03 * sign), point(toy, jes=1 + 0.03 * sign)
    rates = toy.rates(torch.stack([point(toy), tes, jes]))[:, NAMES.index("ggh")]
    assert 0.015 < sign * (rates[1] / rates[0] - 1) < 0.045
    assert 0.006 < sign * mean_change(toy, "ggh", "DER_mass_vis", tes=1 + 0.03 * sign) < 0.02
    assert rates[2] == rates[0]
    assert 0.01 < sign * mean_change(toy, "ggh", "PRI_n_jets", jes=1 + 0.03 * sign) < 0.045


def test_soft_momentum_widens_the_missing_one(toy):
    pool, history = toy.pool("train"), dict(zip(LATENT, toy.pool("train").base.T, strict=False))

    def met(soft_met):
        x = toy.at(pool, point(toy, soft_met=soft_met)).x.double()
        return torch.polar(x[:, X.index("PRI_met")], x[:, X.index("PRI_met_phi")])

    soft = 0.25 * history["soft_et"].clamp(min=1)
    widths, moved = (soft + 16).sqrt() - soft.sqrt(), met(4.0) - met(0.0)
    assert torch.allclose(moved.real, widths * history["normal_met_x"], atol=1e-3)
    assert torch.allclose(moved.imag, widths * history["normal_met_y"], atol=1e-3)


# Weights and yields.


def test_conformance(toy):
    results = check_toy(toy)
    assert [(result.name, result.message) for result in results if not result.passed] == []
    assert {"splits", "reweight", "move"} <= {result.name for result in results}


def test_yields_at_nominal_are_those_of_the_options(toy):
    nominal = toy.spec.parameters.nominal
    expected = [800, 200, 3_000, 700, 300]
    assert toy.rates(nominal[None])[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert toy.fit_events == 5_000
    for split in ("train", "test"):
        assert torch.bincount(toy.pool(split).label, toy.pool(split).weight).tolist() == pytest.approx(expected)
    other = build_toy("higgs_tautau", ggh=100, ztautau=50)
    assert other.rates(nominal[None])[0].tolist() == pytest.approx([100, 200, 50, 700, 300], rel=1e-12)


def test_yields_are_means_over_the_response(toy, columns):
    """Of the probability to be selected times the shower's weight, process by process, at draws from the prior."""
    theta = toy.spec.parameters.sample_prior(20, torch.Generator().manual_seed(3))

    def acceptance(tes, isr, chosen):
        of = {name: columns[name][chosen].astype(np.float64) for name in ("hadron_pt", "lepton_pt", "isr_down", "isr_up")}
        down, up = (of[name] - np.log(np.exp(of[name]).mean()) for name in ("isr_down", "isr_up"))
        weight = np.exp((isr / 3) * (up - down) / 2 + (isr / 3) ** 2 * (up + down) / 2)
        return np.mean(weight * (of["lepton_pt"] > 20) * scipy.stats.norm.sf(np.log(26 / tes / of["hadron_pt"]) / 0.08))

    for row, rates in zip(theta, toy.rates(theta).tolist(), strict=True):
        mu, tes, _, _, ttbar, diboson, bkg, isr = row.tolist()
        factors = [800 * mu, 200 * mu, 3_000 * bkg, 700 * ttbar * bkg, 300 * diboson * bkg]
        for k, (factor, rate) in enumerate(zip(factors, rates, strict=True)):
            chosen = columns["process"] == k
            assert rate == pytest.approx(factor * acceptance(tes, isr, chosen) / acceptance(1, 0, chosen), rel=1e-6)


@pytest.mark.parametrize("values", [{"tes": 1.04}, {"tes": 0.95, "isr": 2.0}, FAR])
def test_weights_of_every_process_follow_its_yield(toy, values):
    theta = point(toy, **values)
    for split in ("train", "test"):
        pool = toy.pool(split)
        change, expected = toy.reweight(pool, theta) - pool.weight, toy.rates(theta[None])[0] - toy.rates(point(toy)[None])[0]
        for label in range(len(NAMES)):
            part = change[pool.label == label]
            assert abs(part.sum() - expected[label]) < MAX_PULL * part.square().sum().sqrt()


def test_only_tau_scale_and_shower_move_the_shares_of_a_process(toy):
    nominal = toy.rates(point(toy)[None])
    assert torch.equal(toy.rates(point(toy, jes=1.08, soft_met=4.0)[None]), nominal)
    assert torch.allclose(toy.rates(point(toy, mu=2.0)[None]) / nominal, torch.tensor([2.0, 2, 1, 1, 1]).double())


def test_shower_weights_have_mean_one(toy, columns):
    """Before the threshold on the tau: as generated but for the acceptance; exactly at the nodes; to a percent on the parabola between."""
    for label in range(len(NAMES)):
        chosen = columns["process"] == label
        down, up = (torch.from_numpy(columns[name][chosen].astype(np.float64)) for name in ("isr_down", "isr_up"))
        assert max(abs(down.exp().mean() - 1), abs(up.exp().mean() - 1)) < 0.08
        down, up = (value - value.exp().mean().log() for value in (down, up))
        for isr in (-1.5, 1.5):
            step = isr / 3
            weight = (step * (up - down) / 2 + step**2 * (up + down) / 2).exp()
            assert abs(weight.mean() - 1) < 0.01
            assert weight.std() > 0.05
    assert max(np.abs(columns[name]).max() for name in ("isr_down", "isr_up")) <= -math.log(LEAST_WEIGHT)


# Mined gold.


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_joint_score_averages_to_zero_at_nominal(toy, split):
    pool, nominal = toy.pool(split), toy.spec.parameters.nominal
    log_ratio, score = toy.joint_truth(pool, nominal)
    assert log_ratio.abs().max() == 0
    assert score.shape == (len(pool), 8)
    assert weighted_pull(score, pool.weight) < MAX_PULL
    assert (score[pool.weight > 0].std(0) > 0).all()


@pytest.mark.parametrize("values", [FAR, {"mu": 0.4, "tes": 0.97, "soft_met": 4.0, "isr": 2.0}])
def test_the_joint_score_averages_to_zero_where_events_are_moved_to(toy, values):
    theta = point(toy, **values)
    events = toy.at(toy.pool("test"), theta)
    assert weighted_pull(toy.joint_truth(events, theta)[1], events.weight) < MAX_PULL
    # A point beside it does not.
    beside = theta - point(toy) + point(toy, mu=1.3, tes=1.01, jes=1.01, isr=0.5)
    assert weighted_pull(toy.joint_truth(events, beside)[1], events.weight) > MAX_PULL


@pytest.mark.parametrize("values", [FAR, {"tes": 0.98}, {"jes": 1.03}, {"soft_met": 3.0}, {"isr": 2.0}])
def test_the_joint_ratio_has_mean_one(toy, values):
    theta, pool = point(toy, **values), toy.pool("test")
    assert weighted_pull(toy.joint_truth(pool, theta)[0].exp(), pool.weight, 1.0) < MAX_PULL
    events = toy.at(pool, theta)
    assert weighted_pull((-toy.joint_truth(events, theta)[0]).exp(), events.weight, 1.0) < MAX_PULL


def test_the_joint_ratio_reweights_measured_features(toy):
    """Moved events, and nominal events with the joint ratio: the same means of x, for nuisances that move it."""
    pool = toy.pool("train")
    for values in ({"tes": 1.02}, {"jes": 1.03}, {"soft_met": 3.0}):
        theta = point(toy, **values)
        ratio, events = toy.joint_truth(pool, theta)[0].exp(), toy.at(pool, theta)
        weights = [pool.weight * ratio, events.weight]
        for name in ("PRI_had_pt", "PRI_n_jets", "PRI_met", "DER_mass_vis"):
            x = [e.x[:, X.index(name)].double() for e in (pool, events)]
            means = [(w * v).sum() / w.sum() for w, v in zip(weights, x, strict=True)]
            # Of the difference: the moved events stand beside their own reweighted selves.
            parts = [w * (v - m) / w.sum() for w, v, m in zip(weights, x, means, strict=True)]
            assert abs(means[0] - means[1]) < MAX_PULL * (parts[0] - parts[1]).square().sum().sqrt()


def test_joint_ratio_by_other_means(toy):
    """Weights, rates and scipy's normals; the score by differences."""
    pool = toy.pool("train")[:300]
    events, hypothesis = toy.at(pool, point(toy, **FAR)), point(toy, tes=0.99, jes=1.02, soft_met=0.5, mu=0.6, isr=1.0)
    of = {name: column.numpy() for name, column in zip(LATENT, pool.base.T, strict=False)}
    norm = scipy.stats.norm.logpdf

    def measurement(tes, jes, soft_met):
        found = norm(np.log(FAR["tes"]) + 0.08 * of["normal_hadron"], np.log(tes), 0.08)
        for k in range(6):
            found += norm(np.log(FAR["jes"]) + 0.12 * of[f"normal_jet{k}"], np.log(jes), 0.12) * (of[f"jet{k}_pt"] > 0)
        soft = 0.25 * np.maximum(of["soft_et"], 1)
        for axis in "xy":
            found += norm(np.sqrt(soft + FAR["soft_met"] ** 2) * of[f"normal_met_{axis}"], 0, np.sqrt(soft + soft_met**2))
        return found

    def weight(theta):
        """Of events that stay where they are: with the tau's scale, only those count that every scale selects."""
        return (toy.reweight(pool, theta) / toy.expected_events(theta[None])).log()

    kept = (events.weight > 0) & (pool.weight > 0) & (toy.reweight(pool, hypothesis) > 0)
    expected = weight(hypothesis) - weight(point(toy)) + torch.from_numpy(measurement(0.99, 1.02, 0.5) - measurement(1, 1, 1))
    log_ratio, score = toy.joint_truth(events, hypothesis)
    assert kept.sum() > 200
    assert torch.allclose(log_ratio[kept], expected[kept], atol=1e-9)
    for name, step in STEPS.items():
        shift = step * (point(toy, **{name: 7}) != point(toy)).double()
        change = toy.joint_truth(events, hypothesis + shift)[0] - toy.joint_truth(events, hypothesis - shift)[0]
        column = toy.spec.parameters.index(name)
        assert torch.allclose(score[:, column], change / (2 * step), rtol=1e-4, atol=1e-4), name


def test_pairs_are_mined(toy):
    events = make_events(toy, 4_000, "pairs", 0)
    assert events.base is None
    at_theta = (events.generated_at == events.theta).all(1)
    assert int(at_theta.sum()) == 2_000
    assert torch.equal(events.generated_at[~at_theta], toy.spec.parameters.nominal.expand(2_000, -1))
    assert events.weight.mean().item() == pytest.approx(1, rel=1e-10)
    ratio = events.joint_log_ratio.exp()
    # E[r] = 1 over nominal events, E[1 / r] = 1 over events of theta.
    assert weighted_pull(ratio[~at_theta], events.weight[~at_theta], 1.0) < MAX_PULL
    assert weighted_pull((1 / ratio)[at_theta], events.weight[at_theta], 1.0) < MAX_PULL
    assert weighted_pull(events.joint_score[at_theta], events.weight[at_theta]) < MAX_PULL


# The sample, and what may be wrong with another.


def test_the_committed_sample_is_whole_and_small(toy, columns):
    _, manifest = read_generated(SAMPLE, "higgs_tautau")
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 5e6
    assert {len(values) for values in columns.values()} == {manifest.n_selected}
    assert {values.dtype for name, values in columns.items() if name != "process"} == {np.dtype(np.float32)}
    assert np.bincount(columns["process"]).min() > 900
    assert manifest.packages["pythia8mc"] == "8.317.2"
    assert set(manifest.cross_sections) == set(NAMES)
    # Twelve binary digits.
    mantissa = np.frexp(columns["hadron_pt"])[0]
    assert (mantissa * 4096 == np.round(mantissa * 4096)).all()


def test_base_thresholds_leave_room_for_the_scales(columns):
    """The least true tau is measured above the threshold at the highest scale beyond three sigmas only, and the least jet."""
    assert math.log(26 / 1.1 / columns["hadron_pt"].min()) > 3 * 0.08
    jets = np.concatenate([columns[f"jet{k}_pt"] for k in range(6)])
    assert math.log(26 / 1.1 / jets[jets > 0].min()) > 3 * 0.12
    assert (jets >= 0).all()


@pytest.fixture
def copied(tmp_path):
    for file in SAMPLE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "drell_yan_angular_mc"}, "expected events of higgs_tautau; it holds drell_yan_angular_mc"),
        ({"n_selected": 0}, "passed the selection"),
        ({"files": {"chunk-00000.parquet": "0"}}, "is not what the manifest says"),
    ],
)
def test_another_data_set_is_refused(copied, change, message):
    manifest = json.loads((copied / "manifest.json").read_text()) | change
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message) as error:
        build_toy("higgs_tautau", path=str(copied))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table | {"process": np.zeros_like(table["process"])}, "expected events of every process; there are none of vbf"),
        (lambda table: {name: values for name, values in table.items() if name != "jet3_eta"}, "no column 'jet3_eta'"),
    ],
)
def test_columns_are_refused_that_do_not_fit(columns, monkeypatch, change, message):
    manifest = read_generated(SAMPLE, "higgs_tautau")[1]
    monkeypatch.setattr("touchneedle.toys.tau_pair_history.read_generated", lambda folder, name: (change(dict(columns)), manifest))
    with pytest.raises(InputError, match=message):
        build_toy("higgs_tautau")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "expected a folder written by 'touchneedle data make'"),
        ({"tau_resolution": 0.0}, "option tau_resolution: expected a positive number"),
        ({"ztautau": -1.0}, "option ztautau: expected a positive number"),
        ({"test_fraction": 1.0}, "option test_fraction: expected a value between 0 and 1"),
        ({"test_fraction": 1e-12}, "expected selected events of ggh in the test split"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        build_toy("higgs_tautau", **options)


def test_events_of_another_toy_are_refused(toy):
    pool = toy.pool("test")[:5]
    with pytest.raises(InputError, match="with base and label"):
        toy.reweight(Events(pool.x, pool.theta, pool.weight), point(toy))
