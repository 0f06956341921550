"""Bundles: the same numbers after a round trip, and one clear line for everything else."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator, register_estimator
from touchneedle.inference import fit, fit_rate_model, load_bundle, save_bundle


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
def trained(problems, generator):
    toy = problems.LinearGaussian()
    estimator = build_estimator("bundled_line", toy.spec, hidden=5)
    estimator.prepare(toy.sample(3 * torch.randn(50, 2, generator=generator, dtype=torch.float64), generator=generator))
    return estimator


@pytest.fixture
def folder(trained, tmp_path):
    return save_bundle(tmp_path / "bundle", trained)


def edit(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_gives_the_same_numbers(trained, problems, tmp_path, generator, dtype):
    trained = trained.to(dtype)
    x, theta = torch.randn(20, 2, generator=generator), torch.randn(20, 2, generator=generator)
    bundle = load_bundle(save_bundle(tmp_path / "bundle", trained))
    assert torch.equal(bundle.estimator.log_ratio(x, theta), trained.log_ratio(x, theta))
    assert bundle.estimator.config == trained.config
    # Bounds of the toy are infinite: they survive as JSON.
    assert bundle.estimator.spec == trained.spec
    json.loads((tmp_path / "bundle" / "manifest.json").read_text(), parse_constant=pytest.fail)


def test_rates_travel_and_the_likelihood_fits(trained, problems, tmp_path, generator):
    toy = problems.LinearGaussian()
    model = fit_rate_model(toy.spec.parameters, toy.rates)
    bundle = load_bundle(save_bundle(tmp_path / "bundle", trained, rates=model))
    assert bundle.manifest.rates == model
    events = toy.sample(torch.zeros(50, 2, dtype=torch.float64), generator=generator)
    assert fit(bundle.likelihood, events).valid


def test_nothing_is_left_of_a_failed_write(trained, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot write bundle"):
        save_bundle(file / "bundle", trained)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_existing_folders_are_not_overwritten(folder, trained):
    with pytest.raises(InputError, match="does not exist yet"):
        save_bundle(folder, trained)


def test_controls_are_refused(problems, tmp_path):
    estimator = problems.Truth(problems.LinearGaussian())
    estimator.needs_truth = True
    with pytest.raises(InputError, match="control") as error:
        save_bundle(tmp_path / "bundle", estimator)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema version 1; got 2"),
        (lambda m: m.update(weights_sha256="0" * 64), "sha256"),
        (lambda m: m.update(surprise=1), "corrupt"),
        (lambda m: m.pop("toy"), "corrupt"),
        (lambda m: m["estimator"].update(name="os.system"), "unknown estimator"),
        (lambda m: m["estimator"].update(version="9"), "version 9"),
        (lambda m: m["estimator"]["params"].update(hidden=4), "do not fit"),
        (lambda m: m["estimator"]["params"].update(hidden="many"), "option hidden"),
    ],
)
def test_altered_manifests_are_refused_in_one_line(folder, change, message):
    edit(folder, change)
    with pytest.raises(InputError, match=message) as error:
        load_bundle(folder)
    assert "\n" not in str(error.value)


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


def test_missing_and_corrupt_bundles_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="there is none"):
        load_bundle(tmp_path / "nowhere")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="corrupt"):
        load_bundle(folder)
