"""`touchneedle data make`: chunks of own seeds, any order, any number of workers, kills, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_generator import DIE_AT, Absent, FakeGenerator

from touchneedle.benchmark.generate import make_data, place_order
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import read_generated, read_manifest, sha256

ROOT = Path(__file__).parents[2]
N, CHUNK, CHUNKS = 950, 200, 5


@pytest.fixture(autouse=True)
def generators(monkeypatch):
    found = {"fake": (FakeGenerator, "tests"), "absent": (Absent, "tests")}
    monkeypatch.setattr(registry.generators, "_registered", found)


def make(output, **options):
    return make_data(options.pop("name", "fake"), options.pop("n", N), options.pop("seed", 7), output=output, chunk_size=CHUNK, **options)


def die(output, chunk, workers):
    """The same in a process that is killed at a chunk; with several workers it is a worker that dies."""
    code = (
        "from fake_generator import FakeGenerator; from touchneedle.conf import registry\n"
        "registry.generators.register('fake')(FakeGenerator)\n"
        "from touchneedle.benchmark.generate import make_data\n"
        f"if __name__ == '__main__': make_data('fake', {N}, 7, output={str(output)!r}, chunk_size={CHUNK}, workers={workers})\n"
    )
    script = output.parent / "make.py"
    script.write_text(code)
    path = f"{ROOT / '.typing'}:{ROOT / 'tests' / 'benchmark'}"
    settings = {**os.environ, DIE_AT: str(chunk), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, script], env=settings, capture_output=True, text=True, check=False)


def test_chunks_hold_the_events_of_spawned_seeds(tmp_path):
    seen = []
    folder = make(tmp_path, progress=lambda done, chunks: seen.append((done, chunks)))
    assert seen == [(done, CHUNKS) for done in range(CHUNKS + 1)]
    columns, manifest = read_generated(folder, "fake")
    drawn = [
        np.random.default_rng(s).standard_normal(n) for s, n in zip(np.random.SeedSequence(7).spawn(5), [200] * 4 + [150], strict=True)
    ]
    x = np.concatenate(drawn)
    np.testing.assert_array_equal(columns["x"], x[x > 0].astype(np.float32))
    assert columns["sign"].dtype == np.int8
    assert (manifest.n_generated, manifest.n_selected) == (N, len(columns["x"]))
    assert manifest.cross_sections["all"].pb == pytest.approx(100 + x.mean(), rel=1e-12)
    variance = sum(len(part) ** 2 * part.var() / len(part) for part in drawn)
    assert manifest.cross_sections["all"].stderr == pytest.approx(variance**0.5 / N, rel=1e-12)


def test_the_manifest_holds_the_hash_of_every_output(tmp_path):
    folder = make(tmp_path)
    manifest = read_manifest(folder)
    assert manifest.files == {file.name: sha256(file.read_bytes()) for file in sorted(folder.glob("*.parquet"))}
    assert len(manifest.files) == CHUNKS
    assert folder.name == f"fake-{manifest.key[:12]}"
    assert not list(folder.glob(".*"))


def test_columns_are_compressed_as_split_bytes(tmp_path):
    column = pq.ParquetFile(make(tmp_path) / "chunk-00000.parquet").metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings


def test_the_events_do_not_depend_on_the_order_of_chunks(tmp_path):
    folder = make(tmp_path)
    expected = (folder / "manifest.json").read_bytes()
    for name in ("chunk-00000.parquet", "chunk-00003.parquet", "manifest.json"):
        (folder / name).unlink()
    assert (make(tmp_path) / "manifest.json").read_bytes() == expected


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_hash_with_any_workers(tmp_path, workers):
    expected = (make(tmp_path / "whole") / "manifest.json").read_bytes()
    output = tmp_path / "killed"
    done = die(output, 3, workers)
    assert done.returncode == (-9 if workers == 1 else 1)
    if workers == 2:
        assert "InputError: data: a worker was killed" in done.stderr
    (folder,) = output.iterdir()
    assert not (folder / "manifest.json").exists()
    there = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    assert workers == 2 or len(there) == 3
    assert "chunk-00003.parquet" not in there
    assert (make(output, workers=workers) / "manifest.json").read_bytes() == expected
    assert {name: (folder / name).stat().st_mtime_ns for name in there} == there


def test_a_finished_set_is_not_made_again(tmp_path, monkeypatch):
    folder = make(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    monkeypatch.setattr(FakeGenerator, "chunk", None)
    assert make(tmp_path, workers=2) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_chunk_that_was_written_without_its_note_is_made_again(tmp_path):
    folder = make(tmp_path)
    expected = (folder / "manifest.json").read_bytes()
    (folder / "chunk-00001.json").unlink()
    (folder / "chunk-00001.parquet").write_bytes(b"half")
    assert (make(tmp_path) / "manifest.json").read_bytes() == expected


def test_all_that_decides_the_events_is_in_the_key(tmp_path, monkeypatch):
    def key(**options):
        return place_order("fake", options.get("n", N), options.get("seed", 7), params=options.get("params", {}), output=tmp_path).key

    first = key()
    assert key(params={"scale": 1.0}) == first
    others = {key(n=N + 1), key(seed=8), key(params={"scale": 2.0})}
    monkeypatch.setattr(FakeGenerator, "version", "2")
    others.add(key())
    monkeypatch.setattr("touchneedle.benchmark.generate.version", lambda package: "0")
    others.add(key())
    assert len(others | {first}) == 6


def test_a_set_of_another_size_shares_its_first_chunks(tmp_path):
    longer, shorter = make(tmp_path, n=600), make(tmp_path, n=400)
    for name, digest in read_manifest(shorter).files.items():
        assert read_manifest(longer).files[name] == digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "fakee"}, "unknown generator 'fakee'; did you mean 'fake'?"),
        ({"name": "absent"}, "needs the package no-such-package-anywhere, which is not installed; pip install 'touchneedle[hep]'"),
        ({"n": 0}, "option n: expected a whole number of at least 1; got 0"),
        ({"seed": -1}, "option seed: expected a whole number of at least 0; got -1"),
        ({"workers": 0}, "option workers: expected a whole number of at least 1; got 0"),
        ({"params": {"scal": 1}}, "unknown option 'scal' (did you mean 'scale'?)"),
        ({"params": {"scale": "wide"}}, "option scale: Input should be a valid number"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        make(tmp_path / "data", **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file.*: Not a directory; choose another --output") as error:
        make(tmp_path / "file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["events", "note", "manifest"])
def test_a_corrupt_chunk_is_named(tmp_path, damage):
    folder = make(tmp_path)
    file = folder / {"events": "chunk-00002.parquet", "note": "chunk-00002.json", "manifest": "manifest.json"}[damage]
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = b""
    file.write_bytes(content)
    with pytest.raises(InputError, match="corrupt") as error:
        make(tmp_path)
    assert file.name in str(error.value)
    assert "\n" not in str(error.value)


def test_reading_refuses_what_the_manifest_does_not_say(tmp_path):
    folder = make(tmp_path)
    with pytest.raises(InputError, match="expected events of other; it holds fake"):
        read_generated(folder, "other")
    content = bytearray((folder / "chunk-00001.parquet").read_bytes())
    content[10] ^= 1
    (folder / "chunk-00001.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"chunk-00001\.parquet is not what the manifest says"):
        read_generated(folder, "fake")
    (folder / "chunk-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"chunk-00001\.parquet: No such file"):
        read_generated(folder, "fake")
    with pytest.raises(InputError, match="expected a folder written by 'touchneedle data make'"):
        read_generated(tmp_path, "fake")


def test_the_command(cli, tmp_path):
    done = cli("data", "make", "fake", "scale=2", "--n", "300", "--seed", "3", "-o", "here")
    assert done.exit_code == 0, done.stderr
    (folder,) = (tmp_path / "here").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"] == {"scale": 2.0}
    assert f"{manifest['n_selected']} of 300 events selected: here/{folder.name}" in done.stdout
    assert "pb" in done.stdout
    for words, message in ((("fakes",), "unknown generator 'fakes'"), (("fake", "scale"), "expected options as KEY=VALUE; got 'scale'")):
        done = cli("data", "make", *words, "--n", "10")
        assert done.exit_code == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()[-1:]) == 1
