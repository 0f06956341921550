"""`touchneedle data derive`: partitions, what they hold, resumption, bad input; with dask on a local cluster where it is installed."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from touchneedle.benchmark import derive_plan
from touchneedle.benchmark.derive import derive_partition, derive_tables
from touchneedle.benchmark.derive_plan import check_memory, plan_partitions
from touchneedle.conf.errors import InputError

N = 1_000
DERIVED = {"px": "pt * cos(phi)", "is_hard": "pt > 30"}
SELECT = "(pt > 10) & (n_jets >= 1)"


def columns(seed):
    rng = np.random.default_rng(seed)
    return {
        "pt": rng.exponential(20, N).astype(np.float32),
        "phi": rng.uniform(-3, 3, N),
        "n_jets": rng.integers(0, 4, N),
        "label": rng.choice(["a", "b"], N),
        "tracks": [[1.0]] * N,
    }


@pytest.fixture
def files(tmp_path):
    found = []
    for seed in (0, 1):
        found.append(tmp_path / f"run{seed}.parquet")
        pq.write_table(pa.table(columns(seed)), found[-1], row_group_size=250)
    return found


@pytest.fixture
def small(monkeypatch):
    """Partitions of two row groups: 250 rows of 4 + 8 + 8 + 32 bytes each."""
    monkeypatch.setattr(derive_plan, "PARTITION_BYTES", 2 * 250 * 52)


def refuse(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def expected(seed):
    table = pa.table(columns(seed)).drop_columns(["tracks"])
    table = table.append_column("px", pa.array(table.column("pt").to_numpy().astype(float) * np.cos(table.column("phi").to_numpy())))
    table = table.append_column("is_hard", pa.array(table.column("pt").to_numpy() > 30))
    return table.filter(pa.array((table.column("pt").to_numpy() > 10) & (table.column("n_jets").to_numpy() >= 1)))


def test_partitions_are_neighbouring_row_groups_within_the_limit(files, tmp_path, small):
    partitions = plan_partitions(files, tmp_path / "out", DERIVED, SELECT)
    assert [(p.file.rsplit("/", 1)[1], p.chunks) for p in partitions] == [
        ("run0.parquet", (0, 1)), ("run0.parquet", (2, 3)), ("run1.parquet", (0, 1)), ("run1.parquet", (2, 3)),
    ]  # fmt: skip
    assert [p.output.rsplit("/", 1)[1] for p in partitions] == [f"part-0000{k}.parquet" for k in range(4)]
    assert {p.columns for p in partitions} == {("pt", "phi", "n_jets", "label")}
    assert {p.n_bytes for p in partitions} == {500 * (52 + 16)}


def test_a_row_group_above_the_limit_is_a_partition(files, tmp_path, monkeypatch):
    monkeypatch.setattr(derive_plan, "PARTITION_BYTES", 10)
    assert [p.chunks for p in plan_partitions(files, tmp_path, DERIVED, SELECT)] == [(0,), (1,), (2,), (3,)] * 2


def test_a_partition_holds_what_numpy_says(files, tmp_path, small):
    partitions = plan_partitions(files, tmp_path / "out", DERIVED, SELECT)
    notes = [derive_partition(partition) for partition in partitions]
    assert [note.n_read for note in notes] == [500] * 4
    found = pa.concat_tables([pq.read_table(partition.output) for partition in partitions])
    assert found.equals(pa.concat_tables([expected(0), expected(1)]))
    assert sum(note.n_selected for note in notes) == len(found)


def test_the_key_follows_content_and_formulas(files, tmp_path):
    def keys(**options):
        return [p.key for p in plan_partitions(files, options.pop("output", tmp_path), options.pop("derived", DERIVED), SELECT)]

    first = keys()
    assert len(set(first)) == len(first)
    assert keys(output=tmp_path / "other") == first
    assert set(keys(derived={"px": "pt"})).isdisjoint(first)
    pq.write_table(pa.table(columns(5)), files[0], row_group_size=250)
    assert set(keys()) & set(first) == set(first[len(first) // 2 :])


def test_workers_that_are_too_small_are_refused_beforehand(files, tmp_path):
    partitions = plan_partitions(files, tmp_path, DERIVED, SELECT)
    check_memory(partitions, 10**9)
    refuse(lambda: check_memory(partitions, 10**8), "--memory-limit 100 MB", "run0.parquet")


@pytest.mark.parametrize(
    ("derived", "selection", "words"),
    [
        ({}, "", ("expected a --feature or a --select",)),
        ({"px": "pt.real"}, "", ("found an attribute",)),
        ({"px": "energy * 2"}, "", ("no column 'energy'",)),
        ({"pt": "pt * 2"}, "", ("stored already",)),
        ({}, "pt + 1", ("expected a condition",)),
        ({}, "label > 1", ("'label'", "expected numbers; it holds string")),
        ({}, "tracks > 1", ("no column 'tracks'",)),
    ],
)
def test_bad_formulas(files, tmp_path, derived, selection, words):
    refuse(lambda: plan_partitions(files, tmp_path, derived, selection), *words)


def test_bad_files(files, tmp_path):
    refuse(lambda: plan_partitions([*files, tmp_path / "none.parquet"], tmp_path, DERIVED, SELECT), "none.parquet", "there is none")
    pq.write_table(pa.table(columns(1) | {"phi": np.zeros(N, np.float32)}), files[1])
    refuse(
        lambda: plan_partitions(files, tmp_path, DERIVED, SELECT), "run0.parquet", "run1.parquet", "'phi' is double in the first and float"
    )
    pq.write_table(pa.table(columns(0)).slice(0, 0), files[0])
    refuse(lambda: plan_partitions(files[:1], tmp_path, DERIVED, SELECT), "run0.parquet", "0 rows")


def test_without_dask_the_extra_is_named(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    refuse(lambda: derive_tables(files, tmp_path / "out", DERIVED, SELECT), "pip install 'touchneedle[hep]'")
    assert not (tmp_path / "out").exists()


# With dask.


@pytest.fixture
def distributed(monkeypatch):
    """The package, with clusters inside this process."""
    monkeypatch.setattr("touchneedle.benchmark.derive.WORKERS_ARE_PROCESSES", False)
    return pytest.importorskip("distributed", reason="dask and distributed (extra hep) are not installed")


def run(files, output, **options):
    return derive_tables(files, output, DERIVED, SELECT, **{"memory_limit": "64GB"} | options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_local_cluster_of_any_size_gives_the_same_files(distributed, files, tmp_path, small):
    seen = []
    manifest = run(files, tmp_path / "one", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 4) for done in range(5)]
    run(files, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    said = json.loads(manifest.read_text())
    assert (said["n_read"], said["n_selected"]) == (2 * N, len(expected(0)) + len(expected(1)))
    assert said["left_out"] == ["tracks"]
    assert [part["file"] for part in said["parts"]] == [f"part-0000{k}.parquet" for k in range(4)]


def test_what_is_there_is_not_made_again(distributed, files, tmp_path, small):
    run(files, tmp_path / "out")
    before = contents(tmp_path / "out")
    kept = tmp_path / "out" / "part-00000.parquet"
    stamp = kept.stat().st_mtime_ns
    # As if killed between the events and the note of one partition, and before another.
    (tmp_path / "out" / "part-00001.json").unlink()
    for name in ("part-00003.parquet", "part-00003.json", "manifest.json"):
        (tmp_path / "out" / name).unlink()
    seen = []
    run(files, tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert seen == [2, 3, 4]
    assert contents(tmp_path / "out") == before
    assert kept.stat().st_mtime_ns == stamp


def test_other_results_and_corrupt_ones_are_left_alone(distributed, files, tmp_path):
    out = tmp_path / "out"
    run(files, out)
    before = contents(out)
    refuse(lambda: derive_tables(files, out, {"px": "pt"}, SELECT), "part-00000.parquet", "other files or formulas")
    assert contents(out) == before
    (out / "part-00000.parquet").write_bytes(b"PAR1")
    refuse(lambda: run(files, out), "part-00000.parquet", "corrupt")


def test_an_error_on_a_worker_is_one_line(distributed, files, tmp_path, small):
    content = bytearray(files[1].read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    files[1].write_bytes(bytes(content))
    refuse(lambda: run(files, tmp_path / "out"), "run1.parquet", "truncated or of another kind")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "carrier-pigeon://here:1"])
def test_a_scheduler_that_does_not_answer(distributed, files, tmp_path, address, monkeypatch):
    monkeypatch.setattr("touchneedle.benchmark.derive.CONNECT_SECONDS", 1)
    refuse(lambda: run(files, tmp_path / "out", scheduler=address), address, "no dask scheduler answers")
    assert not (tmp_path / "out").exists()


def test_a_scheduler_without_workers(distributed, files, tmp_path, monkeypatch):
    monkeypatch.setattr("touchneedle.benchmark.derive.WORKER_SECONDS", 1)
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        refuse(lambda: run(files, tmp_path / "out", scheduler=address), "no workers within 1 s", f"dask worker {address}")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_sizes_that_are_none(distributed, files, tmp_path):
    refuse(lambda: run(files, tmp_path / "out", memory_limit="much"), "--memory-limit", "'much'")
    refuse(lambda: run(files, tmp_path / "out", memory_limit="10MB"), "--memory-limit 10 MB")


def test_a_scheduler_by_its_address(distributed, files, tmp_path, small):
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as cluster:
        run(files, tmp_path / "there", scheduler=cluster.scheduler_address)
    run(files, tmp_path / "here")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


# The command line.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--feature", "px=pt*cos(phi)"], "needs the packages dask and distributed; pip install 'touchneedle[hep]'"),
        (["--feature", "px"], "data derive: --feature: expected options as KEY=VALUE; got 'px'"),
        (["--feature", "px=pt", "--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_errors_of_the_command_stand_alone(cli, files, tmp_path, monkeypatch, words, says):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = cli("data", "derive", *files, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_the_command_writes_what_the_function_does(cli, distributed, files, tmp_path, small):
    words = ["--feature", "px=pt * cos(phi)", "--feature", "is_hard=pt > 30", "--select", SELECT, "--memory-limit", "64GB"]
    result = cli("data", "derive", *files, "-o", tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "out" / "manifest.json")
    assert "left out columns of lists and structs: tracks\n" in result.stderr
    run(files, tmp_path / "same")
    assert contents(tmp_path / "out") == contents(tmp_path / "same")
