"""Bundles that are damaged or hostile: whatever is done to one, loading it ends in one line, and runs nothing of it."""

import hashlib
import io
import json
import os
import pickle
import random
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator, register_estimator
from touchneedle.inference import load_bundle, save_bundle
from touchneedle.inference.exported import load_pt2
from touchneedle.inference.manifest import content_digest

FILES = ("manifest.json", "weights.safetensors", "parity.json", "README.md", "log_ratio.pt2")


@dataclass
class SmallNetworkConfig:
    """Options."""

    hidden: int = 3
    layers: int = 1


@register_estimator("small_network")
class SmallNetwork(Estimator):
    """Something with options, weights and a buffer."""

    Config = SmallNetworkConfig

    def __init__(self, spec, config):
        super().__init__(spec, config)
        width = spec.x_dim + spec.theta_dim
        middle = [layer for _ in range(config.layers) for layer in (nn.Linear(config.hidden, config.hidden), nn.Tanh())]
        self.network = nn.Sequential(nn.Linear(width, config.hidden), nn.Tanh(), *middle, nn.Linear(config.hidden, 1))
        self.register_buffer("mean", torch.empty(0))

    def _prepare(self, source):
        self.mean = source.x.mean(0).float()

    def _log_ratio(self, x, theta):
        x = x - self.mean
        return (self.network(torch.cat([x, theta], -1)) - self.network(torch.cat([x, self.nominal.expand_as(theta)], -1))).squeeze(-1)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good bundle with a graph, as {file: content}."""
    from touchneedle.toys.base import build_toy

    toy = build_toy("linear_gaussian")
    generator = torch.Generator().manual_seed(0)
    theta = toy.spec.parameters.sample_prior(40, generator).clamp(-1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator("small_network", toy.spec)
    events = toy.sample(theta, generator=generator)
    estimator.prepare(events)
    folder = save_bundle(tmp_path_factory.mktemp("good") / "bundle", estimator, events, formats=("pt2",))
    load_bundle(folder, graph=True)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where bundles are written and loaded, again and again."""
    return tmp_path_factory.mktemp("bundles")


def write(place: Path, files: dict[str, bytes], seal: bool) -> Path:
    """A folder of files; ``seal`` gives the manifest all the right hashes, as an attacker would."""
    folder = place / f"bundle{len(list(place.iterdir()))}"
    folder.mkdir()
    if seal:
        files = {**files, "manifest.json": sealed(files)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def sealed(files: dict[str, bytes]) -> bytes:
    try:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != "manifest.json"}
        manifest["digest"] = content_digest(manifest)
        return json.dumps(manifest).encode()
    except (ValueError, TypeError, RecursionError):
        return files["manifest.json"]


def refused(folder: Path, *, graph: bool = False) -> str:
    """The message with which a bundle is refused."""
    with pytest.raises(InputError) as error:
        load_bundle(folder, graph=graph)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files(good, place, name, share):
    content = good[name]
    refused(write(place, {**good, name: content[: int(share * len(content))]}, seal=False))


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(good, place, name):
    rng = random.Random(1)
    for _ in range(25):
        content = bytearray(good[name])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        refused(write(place, {**good, name: bytes(content)}, seal=False))


@pytest.mark.parametrize("name", FILES[:3])
def test_changed_bytes_behind_right_hashes(good, place, name):
    # Some of these are good bundles of something slightly else; none may end in anything but an answer or one line.
    rng = random.Random(2)
    for _ in range(40):
        content = bytearray(good[name])
        content[rng.randrange(len(content))] = rng.randrange(256)
        load_or_refuse(write(place, {**good, name: bytes(content)}, seal=True))


def load_or_refuse(folder: Path) -> None:
    message = ""
    try:
        load_bundle(folder)
    except InputError as error:
        message = str(error)
    assert "\n" not in message


NONSENSE = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    "a" * 10_000,
    "../x",
    "\n",
    [],
    {},
    [[]],
    {"a": {"b": []}},
    float("nan"),
    float("inf"),
    "\ud800",
)


def paths(value, at=()):
    """Where every value of a JSON document lies."""
    yield at
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*at, key))


@pytest.mark.parametrize("name", ["manifest.json", "parity.json"])
def test_nonsense_anywhere_behind_right_hashes(good, place, name):
    rng = random.Random(3)
    everywhere = [path for path in paths(json.loads(good[name])) if path]
    for _ in range(100):
        document = target = json.loads(good[name])
        *way, last = rng.choice(everywhere)
        for key in way:
            target = target[key]
        target[last] = rng.choice(NONSENSE)
        load_or_refuse(write(place, {**good, name: json.dumps(document).encode()}, seal=True))


def test_deep_and_large_json(good, place):
    assert "corrupt" in refused(write(place, {**good, "manifest.json": b"[" * 100_000}, seal=False))
    assert "corrupt" in refused(write(place, {**good, "manifest.json": b'{"schema_version": ' + b"9" * 10_000 + b"}"}, seal=False))
    assert "corrupt" in refused(write(place, {**good, "parity.json": b"[" * 100_000}, seal=True))


def header(entries: dict[str, object], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        header({}, length=2**62),
        header({}),
        header({"mean": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        header({"mean": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"mean": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
        header({"mean": {"dtype": "XYZ", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"../mean": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"__class__": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        pickle.dumps({"mean": 1}),
    ],
)
def test_bad_headers_of_safetensors(good, place, weights):
    refused(write(place, {**good, "weights.safetensors": weights}, seal=True))


def test_options_that_would_exhaust_the_memory(good, place):
    for options in ({"hidden": 10**6}, {"layers": 10**9}, {"hidden": 10**18}):
        manifest = json.loads(good["manifest.json"])
        manifest["estimator"]["params"].update(options)
        assert "more numbers" in refused(write(place, {**good, "manifest.json": json.dumps(manifest).encode()}, seal=True))


def test_links_and_devices(good, place, tmp_path):
    for make in (
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to(path),
        lambda path: path.mkdir(),
        os.mkfifo,
    ):
        folder = write(place, good, seal=False)
        (folder / "parity.json").unlink()
        make(folder / "parity.json")
        assert "plain files only" in refused(folder)


# The graph: opened on request only, and then at least not unfolded beyond its size.


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_hostile_graph_is_not_opened_unless_asked_for(good, place, tmp_path):
    bomb = tmp_path / "packed.pt2"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data/constants/custom_obj_0", pickle.dumps(Touch(tmp_path / "executed")))
    folder = write(place, {**good, "log_ratio.pt2": bomb.read_bytes()}, seal=True)
    assert load_bundle(folder).graph is None
    assert not (tmp_path / "executed").exists()


def test_zip_bombs_are_not_unfolded(good, place, tmp_path):
    bomb = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/models/model.json", b"0" * 50_000_000)
    folder = write(place, {**good, "log_ratio.pt2": bomb.read_bytes()}, seal=True)
    assert "packed" in refused(folder, graph=True)
    for content in (b"", b"PK\x05\x06" + b"\0" * 18, good["log_ratio.pt2"][:5000]):
        with pytest.raises(InputError, match="expected a .pt2 file"):
            load_pt2(Path("log_ratio.pt2"), content)


def test_a_graph_with_other_answers_is_refused(good, place, tmp_path):
    names = {info.filename: info for info in zipfile.ZipFile(io.BytesIO(good["log_ratio.pt2"])).infolist()}
    weight = next(name for name in names if "weight_0" in name)
    content = bytearray(good["log_ratio.pt2"])
    with zipfile.ZipFile(io.BytesIO(good["log_ratio.pt2"])) as archive:
        data = archive.read(weight)
    place_of = bytes(content).index(data)
    content[place_of + 6] ^= 8
    folder = write(place, {**good, "log_ratio.pt2": bytes(content)}, seal=True)
    refused(folder, graph=True)
