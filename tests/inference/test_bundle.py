"""Bundles: the same numbers after a round trip, and one clear line for everything else."""

import copy
import hashlib
import json
import os
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator, register_estimator
from touchneedle.estimators.ensemble import AveragedEnsemble
from touchneedle.estimators.trained_range import OutsideTrainedRange
from touchneedle.inference import fit, fit_rate_model, load_bundle, measure, save_bundle
from touchneedle.inference.manifest import content_digest


@dataclass
class BundledLineConfig:
    """Options."""

    hidden: int = 3


@register_estimator("bundled_line")
class BundledLine(Estimator):
    """A linear score with a buffer sized in ``prepare``."""

    Config = BundledLineConfig

    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.layer = nn.Linear(spec.x_dim, config.hidden)
        self.out = nn.Linear(config.hidden, spec.theta_dim)
        self.register_buffer("mean", torch.empty(0))

    def _prepare(self, source):
        self.mean = source.x.mean(0).float()

    def _log_ratio(self, x, theta):
        score = self.out(torch.tanh(self.layer(x - self.mean)))
        return ((theta - self.nominal) * score).sum(-1) - 0.5 * (theta - self.nominal).square().sum(-1)


@pytest.fixture
def events(problems, generator):
    toy = problems.LinearGaussian()
    return toy.sample(toy.spec.parameters.sample_prior(50, generator), generator=generator)


@pytest.fixture
def trained(problems, events):
    estimator = build_estimator("bundled_line", problems.LinearGaussian().spec, hidden=5)
    estimator.prepare(events)
    return estimator


@pytest.fixture
def folder(trained, events, tmp_path):
    return save_bundle(tmp_path / "bundle", trained, events)


def edit(folder, change, seal=True):
    """Change a manifest; ``seal`` gives it the right digest, as an attacker would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if seal:
        manifest["digest"] = content_digest(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_gives_the_same_numbers(trained, events, tmp_path, generator, dtype):
    trained = trained.to(dtype)
    x, theta = torch.randn(20, 2, generator=generator), torch.randn(20, 2, generator=generator)
    bundle = load_bundle(save_bundle(tmp_path / "bundle", trained, events))
    assert trained.dtype == dtype
    assert torch.equal(bundle.estimator.log_ratio(x, theta), copy.deepcopy(trained).double().log_ratio(x, theta))
    assert bundle.estimator.config == trained.config
    # Bounds of the toy are infinite: they survive as JSON.
    assert bundle.estimator.spec == trained.spec
    json.loads((tmp_path / "bundle" / "manifest.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("combine", ["mean", "wifi", "average"])
def test_ensembles_travel(problems, events, tmp_path, combine):
    members = [build_estimator("bundled_line", problems.LinearGaussian().spec) for _ in range(3)]
    for member in members:
        member.prepare(events)
    ensemble = registry.ensembles.load(combine)(members)
    if combine == "wifi":
        ensemble.weights = torch.tensor([0.2, 0.9, -0.1])
    bundle = load_bundle(save_bundle(tmp_path / "bundle", ensemble, events))
    assert type(bundle.estimator) is type(ensemble)
    assert torch.equal(bundle.estimator.log_ratio(events.x, events.theta), ensemble.double().log_ratio(events.x, events.theta))


def test_the_average_of_likelihoods_is_measured_out_of_a_bundle(problems, events, tmp_path):
    """The set's likelihood is the average of the members', not a sum over events of anything."""
    members = [build_estimator("bundled_line", problems.LinearGaussian().spec) for _ in range(3)]
    for member in members:
        member.prepare(events)
    ensemble = AveragedEnsemble(members)
    bundle = load_bundle(save_bundle(tmp_path / "bundle", ensemble, events))
    measured = measure(bundle, events)
    best, moved = measured.fit.theta, measured.fit.theta + torch.tensor([0.1, -0.2], dtype=torch.float64)
    assert measured.fit.valid
    assert {"intervals", "scan_mu", "impacts_on_mu"} <= set(measured.further)
    change = ensemble.double().log_likelihood_ratio(events, torch.stack([moved, best])).detach()
    constraint = -0.5 * (moved[1] ** 2 - best[1] ** 2)
    value = [bundle.likelihood.value_and_gradient(theta, events)[0] for theta in (moved, best)]
    assert float(value[0] - value[1]) == pytest.approx(float(change[0] - change[1] + constraint), abs=1e-9)


def test_rates_travel_and_the_likelihood_fits(trained, problems, events, tmp_path):
    toy = problems.LinearGaussian()
    model = fit_rate_model(toy.spec.parameters, toy.rates)
    bundle = load_bundle(save_bundle(tmp_path / "bundle", trained, events, rates=model))
    assert bundle.manifest.rates == model
    assert fit(bundle.likelihood, events).valid


def test_the_manifest_says_what_it_was_trained_on(folder, events):
    training = load_bundle(folder).manifest.training
    assert training.events == 50
    assert training.range["mu"] == (float(events.theta[:, 0].min()), float(events.theta[:, 0].max()))


def test_theta_outside_the_training_range_is_warned_of(folder, events):
    bundle = load_bundle(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle.estimator.log_ratio(events.x, events.theta)
    low, high = bundle.manifest.training.range["nu"]
    with pytest.warns(OutsideTrainedRange, match=rf"nu in \[{low:.3g}, {high:.3g}\]") as caught:
        bundle.estimator.log_ratio(events.x[:1], torch.tensor([0.0, 2 * high - low], dtype=torch.float64))
    assert len(caught) == 1


def test_nothing_is_left_of_a_failed_write(trained, events, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot write bundle"):
        save_bundle(file / "bundle", trained, events)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_existing_folders_are_not_overwritten(folder, trained, events):
    with pytest.raises(InputError, match="does not exist yet"):
        save_bundle(folder, trained, events)


def test_controls_are_refused(problems, events, tmp_path):
    estimator = problems.Truth(problems.LinearGaussian())
    estimator.needs_truth = True
    with pytest.raises(InputError, match="control") as error:
        save_bundle(tmp_path / "bundle", estimator, events)
    assert "\n" not in str(error.value)


def swap(rows):
    rows[0], rows[1] = rows[1], rows[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=1), "schema version 2; got 1"),
        (lambda m: m["files"].update({"weights.safetensors": "0" * 64}), "sha256"),
        (lambda m: m["files"].pop("README.md"), "README.md"),
        (lambda m: m["files"].update({"../escape": "0" * 64}), "files"),
        (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "files"),
        (lambda m: m["files"].update({"log_ratio.pt2": "0" * 64}), "not there"),
        (lambda m: m.update(surprise=1), "corrupt"),
        (lambda m: m.pop("toy"), "corrupt"),
        (lambda m: swap(m["toy"]["features"]), "exported with a, b"),
        (lambda m: m["toy"]["features"][0].update(name="c"), "expected c, b; got a, b"),
        (lambda m: m["toy"]["features"][0].update(name="b"), "each once"),
        (lambda m: swap(m["toy"]["parameters"]["parameters"]), "exported with mu, nu"),
        (lambda m: m["toy"]["parameters"]["parameters"][1]["constraint"].update(sigma=-1), "expected a finite number above 0"),
        (lambda m: m["toy"]["parameters"]["parameters"][0].update(nominal=1e999), "nominal"),
        (lambda m: m["toy"]["parameters"]["parameters"][0].update(bounds=[2, 1]), "bounds"),
        (lambda m: m["training"]["range"].pop("mu"), "training.range"),
        (lambda m: m["estimator"].update(name="os.system", distribution="touchneedle"), "unknown estimator"),
        (lambda m: m["estimator"].update(name="my_ratio", distribution="my-ratio 0.3"), "my-ratio 0.3, which is not installed"),
        (lambda m: m["estimator"].update(version="9"), "version 9"),
        (lambda m: m["estimator"].update(ensemble={"combine": "mean", "members": 2}), "do not fit"),
        (lambda m: m["estimator"].update(ensemble={"combine": "mean", "members": 10**9}), "members"),
        (lambda m: m["estimator"].update(ensemble={"combine": "os", "members": 1}), "unknown ensemble"),
        (lambda m: m["estimator"]["params"].update(hidden=4), "do not fit"),
        (lambda m: m["estimator"]["params"].update(hidden="many"), "option hidden"),
        (lambda m: m["estimator"]["params"].update(hidden=10**9), "more numbers"),
        (lambda m: m["estimator"]["params"].update(hidden=10**15), "more numbers"),
        (lambda m: m["estimator"]["params"].update(import_module="os"), "unknown option"),
    ],
)
def test_altered_manifests_are_refused_in_one_line(folder, change, message):
    edit(folder, change)
    with pytest.raises(InputError, match=message) as error:
        load_bundle(folder)
    assert "\n" not in str(error.value)


def test_an_edit_that_forgets_the_digest_is_noticed(folder):
    edit(folder, lambda m: m["toy"]["parameters"]["parameters"][1]["constraint"].update(sigma=2.0), seal=False)
    with pytest.raises(InputError, match="was altered"):
        load_bundle(folder)


def test_other_answers_than_at_export_are_refused(folder):
    # The nominal point moves: weights and options are good, the answers are others.
    edit(folder, lambda m: m["estimator"].update(dtype="float64"))
    load_bundle(folder)
    path = folder / "parity.json"
    parity = json.loads(path.read_text())
    parity["log_ratio"][3] += 1e-7
    path.write_text(json.dumps(parity))
    edit(folder, lambda m: m["files"].update({"parity.json": hashlib.sha256(path.read_bytes()).hexdigest()}))
    with pytest.raises(InputError, match="answers differ"):
        load_bundle(folder)


def test_altered_missing_and_linked_weights_are_refused(folder, tmp_path):
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="sha256"):
        load_bundle(folder)
    weights.unlink()
    with pytest.raises(InputError, match="cannot read"):
        load_bundle(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(content)
    weights.symlink_to(elsewhere)
    with pytest.raises(InputError, match="link"):
        load_bundle(folder)


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.mkdir(), lambda p: os.mkfifo(p)])
def test_files_that_are_not_listed_are_refused(folder, make):
    make(folder / "more")
    with pytest.raises(InputError, match="more"):
        load_bundle(folder)


def test_missing_and_corrupt_bundles_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="there is none"):
        load_bundle(tmp_path / "nowhere")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="corrupt"):
        load_bundle(folder)
