"""Muon pairs from Pythia: the closed form, the measured features, reweighting against direct generation, mined gold."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from touchneedle.benchmark.check_toy import check_toy
from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.drell_yan_angular_mc import LATENT, SAMPLE, log_weight
from touchneedle.toys.drell_yan_matrix_element import M_Z, angular_density, width
from touchneedle.toys.generated import read_generated, read_manifest

PYTHIA = importlib.util.find_spec("pythia8mc") is not None
MAX_PULL = 4.5
# Of a right answer, one histogram in ten thousand falls below.
LEAST_P = 1e-4


@pytest.fixture(scope="module")
def toy():
    return build_toy("drell_yan_angular_mc")


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("drell_yan_golden", Path(__file__).with_name("drell_yan_golden.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def everything(toy):
    """Both pools, and the weight of every event relative to nominal at a point."""
    pools = [toy.pool(split) for split in ("train", "test")]

    def relative(theta):
        theta = torch.tensor(theta, dtype=torch.float64)
        return torch.cat([toy.reweight(pool, theta) / pool.weight for pool in pools])

    return pools, relative


def point(sine=0.2315, scale=0.0, resolution=0.0, isr=0.0):
    return torch.tensor([sine, scale, resolution, isr], dtype=torch.float64)


def pull_of_mean(values, expected=0.0):
    return ((values.mean(0) - expected) / (values.std(0) / len(values) ** 0.5)).abs().max().item()


# The matrix element.


@pytest.mark.parametrize("flavour", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("sine", [0.15, 0.2315, 0.3])
def test_the_density_is_the_sum_of_squared_helicity_amplitudes(flavour, sine):
    charge, axial = (2 / 3, 1) if flavour % 2 == 0 else (-1 / 3, -1)
    quark, lepton = axial - 4 * charge * sine, -1 + 4 * sine
    for mass in (61.0, 90.0, M_Z, 115.0):
        s = mass**2
        propagator = s - M_Z**2 + 1j * s * width(torch.tensor(sine, dtype=torch.float64)).item() / M_Z
        chi = s / (16 * 0.2312 * (1 - 0.2312)) / propagator
        for cosine in (-0.9, 0.1, 0.7):
            expected = sum(
                abs(-charge + (quark - hq * axial) * (lepton + hl) * chi) ** 2 * (1 + hq * hl * cosine) ** 2 / 4
                for hq in (-1, 1)
                for hl in (-1, 1)
            )
            values = [torch.tensor(v, dtype=torch.float64) for v in (sine, flavour, mass, cosine)]
            assert angular_density(*values).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("sine", "pythia"), [(0.20, 2.5969457997693315), (0.26, 2.435854163978254)])
def test_the_width_is_that_of_pythia(sine, pythia):
    assert width(torch.tensor(sine, dtype=torch.float64)).item() == pytest.approx(pythia, rel=1e-12)


def test_the_hard_cosine_follows_the_density(toy):
    latent = dict(zip(LATENT, torch.cat([toy.pool(s).base for s in ("train", "test")]).double().T, strict=True))
    # The acceptance cuts the cosine, alike in both directions: odd moments tell B / A of each flavour and mass.
    a = angular_density(torch.tensor(0.2315), latent["flavour"], latent["hard_mass"], latent["hard_cosine"])
    b = angular_density(torch.tensor(0.2315), latent["flavour"], latent["hard_mass"], -latent["hard_cosine"])
    sign = latent["hard_cosine"].sign()
    expected = sign * (a - b) / (a + b)
    assert pull_of_mean(sign - expected) < MAX_PULL
    assert abs(expected.mean()) > 10 * expected.std() / len(expected) ** 0.5


# What is measured.


def test_features_are_those_of_the_four_vectors(toy):
    events = toy.at(toy.pool("test")[:60], point(0.25, 2.0, -1.5, 1.0))
    for x, row in zip(events.x.tolist(), events.base.double().tolist(), strict=True):
        assert x == pytest.approx(
            by_boosts(dict(zip(LATENT, row, strict=True)), 0.001 * 2.0, 0.02 * np.exp(0.05 * -1.5)), rel=2e-5, abs=2e-5
        )


def by_boosts(z, shift, resolution):
    """Mass, abs rapidity, pt and the Collins-Soper cosine by an explicit boost into the rest frame of the pair."""
    muons = []
    for name, phi in (("minus", z["delta_phi"]), ("plus", 0.0)):
        pt = z[f"pt_{name}"] * np.exp(shift + resolution * z[f"normal_{name}"])
        eta = z[f"eta_{name}"]
        muons.append(pt * np.array([np.cosh(eta), np.cos(phi), np.sin(phi), np.sinh(eta)]))
    pair = muons[0] + muons[1]
    mass = np.sqrt(pair[0] ** 2 - pair[1:] @ pair[1:])

    def boosted(p):
        beta, gamma = pair[1:] / pair[0], pair[0] / mass
        along = p[1:] @ beta
        return p[1:] + beta * ((gamma - 1) * along / (beta @ beta) - gamma * p[0])

    forward = np.sign(pair[3])
    beams = [boosted(np.array([1.0, 0.0, 0.0, forward * side])) for side in (1, -1)]
    axis = beams[0] / np.linalg.norm(beams[0]) - beams[1] / np.linalg.norm(beams[1])
    minus = boosted(muons[0])
    cosine = axis @ minus / np.linalg.norm(axis) / np.linalg.norm(minus)
    return [mass, abs(np.arctanh(pair[3] / pair[0])), np.hypot(pair[1], pair[2]), cosine]


def test_the_scale_multiplies_masses_and_turns_nothing(toy):
    pool = toy.pool("train")[:500]
    moved = toy.at(pool, point(scale=3.0))
    assert torch.allclose(moved.x[:, [0, 2]], pool.x[:, [0, 2]] * np.exp(0.003), rtol=1e-5)
    assert torch.allclose(moved.x[:, [1, 3]], pool.x[:, [1, 3]], atol=1e-5)
    assert torch.equal(moved.weight, pool.weight)
    assert torch.equal(toy.at(pool, toy.spec.parameters.nominal).x, pool.x)


# Reweighting.


def test_conformance(toy):
    failures = [(result.name, result.message) for result in check_toy(toy) if not result.passed]
    assert failures == []


@pytest.mark.parametrize("theta", [(0.14, 0, 0, 0), (0.31, 2, -3, 1.7), (0.2315, 0, 0, -3.9), (0.25, 0, 1, 3.3)])
def test_the_rate_is_the_mean_weight(toy, everything, theta):
    mean = everything[1](theta).mean().item()
    assert toy.rates(point(*theta)[None]).item() == pytest.approx(toy.fit_events * mean, rel=1e-6)


def test_shower_weights_have_mean_one_but_for_the_acceptance(everything):
    for isr in (-3.0, 3.0):
        weight = everything[1]((0.2315, 0, 0, isr))
        assert pull_of_mean(weight, 1.0) < MAX_PULL


def test_the_parabola_meets_the_weights_of_the_generator(toy):
    history = dict(zip(LATENT, toy.pool("test").base.double().T, strict=True))
    for name, isr in (("isr_down", -3.0), ("isr_up", 3.0)):
        found = log_weight(history, *torch.tensor([[0.2315], [isr]], dtype=torch.float64))
        assert torch.allclose(found, history[name], atol=1e-10)


def direct_samples():
    return json.loads(Path(__file__).with_name("drell_yan_golden.json").read_text())


def p_values(golden, everything, sample, theta):
    """p of the chi2 between the reweighted sample and the direct one, for every histogram."""
    pools, relative = everything
    x, latent = (torch.cat([getattr(pool, name) for pool in pools]).double().numpy() for name in ("x", "base"))
    weight = relative(theta).numpy()
    sums, squares = golden.histograms(x, latent, weight), golden.histograms(x, latent, weight**2)
    found = {}
    for name, chunks in sample["counts"].items():
        direct = np.sum(chunks, 0)
        total, events = sums[name].sum(), direct.sum()
        variance = squares[name] / total**2 + direct / events**2
        chi2 = ((sums[name] / total - direct / events) ** 2 / variance).sum()
        found[name] = scipy.stats.chi2.sf(chi2, len(direct) - 1)
    return found


@pytest.mark.parametrize("sample", direct_samples(), ids=lambda sample: str(sample["manifest"]["config"]["sin2theta_eff"]))
def test_reweighted_and_direct_samples_agree(golden, everything, sample):
    sine = sample["manifest"]["config"]["sin2theta_eff"]
    assert sum(map(sum, sample["counts"]["mass"])) == sample["manifest"]["n_selected"]
    agreement = p_values(golden, everything, sample, (sine, 0, 0, 0))
    assert min(agreement.values()) > LEAST_P, agreement
    # The comparison has the power to see weights that are left out, and those of the point on the other side.
    assert min(p_values(golden, everything, sample, (0.2315, 0, 0, 0)).values()) < LEAST_P
    assert min(p_values(golden, everything, sample, (2 * 0.2315 - sine, 0, 0, 0)).values()) < LEAST_P


@pytest.mark.parametrize("sample", direct_samples(), ids=lambda sample: str(sample["manifest"]["config"]["sin2theta_eff"]))
def test_the_rate_is_that_of_direct_generation(toy, everything, sample):
    """Cross-section times efficiency, relative to nominal."""
    values, errors = zip(*(fiducial(manifest) for manifest in (sample["manifest"], read_manifest(SAMPLE).model_dump())), strict=True)
    weight = everything[1]((sample["manifest"]["config"]["sin2theta_eff"], 0, 0, 0))
    direct = values[0] / values[1]
    error = np.hypot(direct * np.hypot(*errors), weight.std().item() / len(weight) ** 0.5)
    assert abs(direct - weight.mean().item()) < MAX_PULL * error


def fiducial(manifest):
    """Cross-section within the acceptance in pb, and its relative error."""
    section, share = manifest["cross_sections"]["all"], manifest["n_selected"] / manifest["n_generated"]
    return section["pb"] * share, np.hypot(section["stderr"] / section["pb"], ((1 - share) / manifest["n_selected"]) ** 0.5)


# Mined gold.


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_joint_score_averages_to_zero_at_nominal(toy, split):
    pool, nominal = toy.pool(split), toy.spec.parameters.nominal
    log_ratio, score = toy.joint_truth(pool, nominal)
    assert log_ratio.abs().max() == 0
    assert score.shape == (len(pool), 4)
    assert pull_of_mean(score) < MAX_PULL


@pytest.mark.parametrize("theta", [(0.19, 1, 1, -1), (0.29, -2, -1, 2)])
def test_the_joint_score_averages_to_zero_where_events_are_moved_to(toy, theta):
    events = toy.at(toy.pool("test"), point(*theta))
    score = toy.joint_truth(events, point(*theta))[1]
    weight = (events.weight / events.weight.mean())[:, None]
    assert pull_of_mean(weight * score) < MAX_PULL
    # A point beside it does not.
    beside = toy.joint_truth(events, point(*theta) - point(0.05, 1, 1, 1))[1]
    assert ((weight * beside).mean(0) / ((weight * beside).std(0) / len(events) ** 0.5)).abs().min() > MAX_PULL


def test_joint_ratio_by_other_means(toy):
    """Weights, rates and scipy's normals."""
    events, hypothesis = toy.at(toy.pool("train")[:300], point(0.2, 2, 1, -1)), point(0.27, -1, 2, 2)
    u = 0.001 * 2 + 0.02 * np.exp(0.05) * events.base[:, -2:].double().numpy()
    normals = scipy.stats.norm.logpdf(u, -0.001, 0.02 * np.exp(0.1)) - scipy.stats.norm.logpdf(u, 0, 0.02)
    pool = toy.pool("train")[:300]
    weight = (toy.reweight(pool, hypothesis) / pool.weight).log() - (toy.rates(hypothesis[None]) / toy.fit_events).log().item()
    log_ratio, score = toy.joint_truth(events, hypothesis)
    assert torch.allclose(log_ratio, weight + torch.from_numpy(normals.sum(1)), atol=1e-6)
    for column, step in enumerate((1e-5, 1e-3, 1e-3, 1e-3)):
        shift = step * torch.eye(4, dtype=torch.float64)[column]
        change = toy.joint_truth(events, hypothesis + shift)[0] - toy.joint_truth(events, hypothesis - shift)[0]
        assert torch.allclose(score[:, column], change / (2 * step), rtol=1e-5, atol=1e-5)


def test_pairs_are_mined(toy):
    events = make_events(toy, 9_000, "pairs", 0)
    assert events.base is None
    at_theta = (events.generated_at == events.theta).all(1)
    assert int(at_theta.sum()) == 4_500
    assert torch.equal(events.generated_at[~at_theta], toy.spec.parameters.nominal.expand(4_500, -1))
    assert events.weight.mean().item() == pytest.approx(1, rel=1e-10)
    ratio = events.joint_log_ratio.exp()
    # E[r] = 1 over nominal events, E[w / r] = 1 over events of theta.
    assert pull_of_mean(ratio[~at_theta], 1.0) < MAX_PULL
    assert pull_of_mean((events.weight / ratio)[at_theta], 1.0) < MAX_PULL
    assert pull_of_mean((events.weight[:, None] * events.joint_score)[at_theta]) < MAX_PULL


# The sample, and what may be wrong with another.


def test_the_committed_sample_is_whole_and_small():
    columns, manifest = read_generated(SAMPLE, "drell_yan_angular_mc")
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 2e6
    assert {len(values) for values in columns.values()} == {manifest.n_selected}
    assert 15_000 < manifest.n_selected < 25_000
    assert {values.dtype for name, values in columns.items() if name != "flavour"} == {np.dtype(np.float32)}
    assert manifest.packages["pythia8mc"] == "8.317.2"


@pytest.fixture
def copied(tmp_path):
    for file in SAMPLE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"sin2theta_eff": 0.25}}, "expected events generated at sin2theta_eff = 0.2315; got 0.25"),
        ({"name": "higgs_tautau"}, "expected events of drell_yan_angular_mc; it holds higgs_tautau"),
        ({"n_selected": 0}, "none of 50000 passed the selection"),
        ({"files": {"chunk-00000.parquet": "0"}}, "is not what the manifest says"),
        ({"key": 5}, "manifest.json is corrupt"),
    ],
)
def test_another_data_set_is_refused(copied, change, message):
    manifest = json.loads((copied / "manifest.json").read_text()) | change
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message) as error:
        build_toy("drell_yan_angular_mc", path=str(copied))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "expected a folder written by 'touchneedle data make'"),
        ({"resolution": 0.0}, "option resolution: expected a positive number"),
        ({"a": -1.0}, "option a: expected a number of at least 0"),
        ({"test_fraction": 1.0}, "option test_fraction: expected a value between 0 and 1"),
        ({"test_fraction": 1e-12}, "expected events in the test split"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        build_toy("drell_yan_angular_mc", **options)


# Pythia itself.


@pytest.mark.slow
@pytest.mark.skipif(not PYTHIA, reason="pythia8mc is not installed (pip install 'touchneedle[hep]')")
def test_pythia_gives_the_committed_sample_again(tmp_path):
    from touchneedle.benchmark.generate import make_data

    again = read_generated(make_data("drell_yan_angular_mc", 10_000, 0, output=tmp_path), "drell_yan_angular_mc")[0]
    committed = read_generated(SAMPLE, "drell_yan_angular_mc")[0]
    for name, values in again.items():
        np.testing.assert_allclose(values, committed[name][: len(values)], rtol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(not PYTHIA, reason="pythia8mc is not installed (pip install 'touchneedle[hep]')")
@pytest.mark.parametrize("sample", direct_samples(), ids=lambda sample: str(sample["manifest"]["config"]["sin2theta_eff"]))
def test_pythia_gives_the_golden_histograms_again(tmp_path, golden, sample):
    from touchneedle.benchmark.generate import make_data

    manifest = sample["manifest"]
    folder = make_data("drell_yan_angular_mc", 10_000, manifest["seed"], params=manifest["config"], output=tmp_path)
    found = golden.count(folder)
    assert {name: chunks[0] for name, chunks in sample["counts"].items()} == {name: chunks[0] for name, chunks in found["counts"].items()}
