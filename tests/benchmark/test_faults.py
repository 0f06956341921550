"""Faults, each injected: kills, full disks, vanished machines, two hosts, wrong clocks, slow file systems; the repeat completes.

Real: SIGKILL at every moment of writing, the kernel's limit on the size of files, a full tmpfs, two processes under locks (and
host names of their own where the kernel permits that). Simulated: a file system without locks or whose views are late,
clocks, and what a vanished machine leaves behind (the files are made by the tests).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_cells import Fault, allow_files_of, be_host, cell, counting, die_at, run_cells

from touchneedle.benchmark.cells import recorded_status
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import Record, read_record, read_records
from touchneedle.benchmark.run import run_experiment
from touchneedle.benchmark.store import CorruptFit, hold_cell, load_weights
from touchneedle.conf.errors import InputError
from touchneedle.estimators.best_gaussian import BestGaussian

ROOT = Path(__file__).parents[2]
# One process imports everything; those of the tests are its forks.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["touchneedle.benchmark.run", "touchneedle.benchmark.train"])
Outcomes = list[tuple[str, str]]


def start(folder: Path, seeds: Sequence[int], *faults: Fault) -> Callable[[], tuple[int | None, Outcomes]]:
    """Run cells in a process of their own; the call waits for it and gives its exit code and what became of them."""
    told, tell = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=run_cells, args=(folder, seeds, faults, tell))
    process.start()
    tell.close()

    def wait() -> tuple[int | None, Outcomes]:
        process.join()
        outcomes = told.recv() if process.exitcode == 0 else []
        told.close()
        return process.exitcode, outcomes

    return wait


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trainings in this process leave files as well."""
    monkeypatch.setattr(BestGaussian, "_prepare", counting(BestGaussian._prepare, tmp_path))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a run without faults."""
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    assert run(results).status == "ok"
    return results


def run(results: Path, seed: int = 0) -> Record:
    record = run_experiment(cell(results, seed))
    assert record is not None
    return record


def trainings(folder: Path) -> int:
    return len(list(folder.glob("trained.*")))


def fit_folder(results: Path) -> Path:
    return results / "fits" / identify(cell(results))[0]


def rows(results: Path) -> list[Any]:
    """Metric rows of the only record."""
    (record,) = read_records(results)
    assert record.status == "ok", record.reason
    return [row.model_dump() for row in record.metrics]


def assert_whole(results: Path) -> None:
    """Whatever bears its final name can be read; a failed record says why in one line."""
    for record in read_records(results):
        assert (record.status == "ok") == (record.reason == "")
        assert "\n" not in record.reason
    for table in results.glob("[!.]*/*.parquet"):
        if not table.name.startswith("."):
            pq.read_table(table)
    for folder in results.glob("fits/[!.]*"):
        assert load_weights(results, folder.name) is not None


def assert_completed(results: Path, undisturbed: Path) -> None:
    """The repeated run gives the rows of one without faults, and leaves nothing else."""
    assert run(results).status == "ok"
    assert_whole(results)
    assert rows(results) == rows(undisturbed)
    assert not list(results.rglob("*.tmp"))


# Workers killed.


def test_a_process_may_be_killed_whenever_it_writes(tmp_path: Path, undisturbed: Path) -> None:
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        shutil.copytree(undisturbed, folder / "results")
        done = read_records(folder / "results")[0]
        code, outcomes = start(folder, [0, 1], partial(die_at, moment))()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert_whole(folder / "results")
        fits, before = len(list((folder / "results" / "fits").glob("[!.]*"))), trainings(tmp_path)
        # What was finished is not run again; of the other cell the training is repeated unless its weights were kept.
        assert run(folder / "results") == done
        assert run(folder / "results", seed=1).status == "ok"
        assert trainings(folder) == 1
        assert trainings(tmp_path) - before == (1 if fits == 1 else 0)
        assert_whole(folder / "results")
        assert not list((folder / "results").rglob("*.tmp"))
    # Weights and log, curves, the record: each brought to disk, and renamed.
    assert moment >= 7
    assert outcomes == [("ok", ""), ("ok", "")]


# A process of a worker, or the one that started the workers, is killed in the first training.
MORTAL = """
import os, pathlib, signal
from touchneedle.estimators.base import register_estimator
from touchneedle.estimators.best_gaussian import BestGaussian

FOLDER = pathlib.Path(__file__).parent

@register_estimator("mortal")
class Mortal(BestGaussian):
    def _prepare(self, source):
        super()._prepare(source)
        (FOLDER / f"trained.{{len(list(FOLDER.glob('trained.*')))}}.{{os.getpid()}}").touch()
        try:
            (FOLDER / "died").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill({victim}, signal.SIGKILL)
"""
SWEEP = (
    *("run", "-m", "toy=gaussian_shift", "estimator=mortal", "--plugin", "mortal.py", "seed=0,1,2", "budget.n_train=200"),
    *("launcher=joblib", "evaluation.families=[density]", "evaluation.n_test=100", "evaluation.n_sample=20"),
)


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_the_repeat_completes(shell: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL.format(victim="os.getpid()"))
    killed = shell(*SWEEP)
    assert killed.returncode == 2
    (line,) = killed.stderr.splitlines()
    assert line == "touchneedle: error: a worker was killed, by want of memory perhaps; repeat the command to go on"
    assert shell(*SWEEP).returncode == 0
    records = read_records(tmp_path / "results/local")
    assert sorted((record.seed, record.status) for record in records) == [(0, "ok"), (1, "ok"), (2, "ok")]


@pytest.mark.slow
def test_workers_may_outlive_the_command_and_the_repeat_completes(shell: Callable[..., Any], tmp_path: Path) -> None:
    """A worker whose parent is gone finishes its cell; the repeat finds it done, or waits for it."""
    (tmp_path / "mortal.py").write_text(MORTAL.format(victim="os.getppid()"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "touchneedle.benchmark.main", *SWEEP]
    # Its output goes nowhere: the workers would keep a pipe open.
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        assert process.wait() == -signal.SIGKILL
    repeated = shell(*SWEEP)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    records = read_records(tmp_path / "results/local")
    assert sorted((record.seed, record.status) for record in records) == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert trainings(tmp_path) == 3
    # Joblib leaves the orphans idle.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# Disk full.


def test_files_that_may_not_grow_are_one_line_and_the_repeat_completes(tmp_path: Path, undisturbed: Path) -> None:
    """EFBIG by the kernel while weights, their log, curves, or the record are written."""
    sizes = sorted({file.stat().st_size for file in undisturbed.rglob("*") if file.stat().st_size and file.is_file()})
    assert len(sizes) >= 4
    for size in sizes:
        folder = tmp_path / str(size)
        code, ((status, reason),) = start(folder_of(folder), [0], partial(allow_files_of, size - 1))()
        assert code == 0
        assert status in ("raised", "failed")
        assert "File too large" in reason
        assert "choose a writable folder with free space" in reason
        assert "\n" not in reason
        assert_whole(folder / "results")
        assert not list((folder / "results").rglob("*.tmp"))
        assert_completed(folder / "results", undisturbed)


def folder_of(path: Path) -> Path:
    (path / "results").mkdir(parents=True)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_may_be_full_at_any_byte(small_disk: Path, undisturbed: Path) -> None:
    """ENOSPC by the kernel, for any number of pages left."""
    page = os.sysconf("SC_PAGE_SIZE")
    failures = 0
    for pages in range(100):
        results = small_disk / "results"
        fill(small_disk / "ballast", pages * page)
        status, reason = outcome(results)
        assert (status == "ok") == (reason == "")
        assert status == "ok" or "No space left on device" in reason
        assert "\n" not in reason
        assert_whole(results)
        (small_disk / "ballast").unlink()
        assert_completed(results, undisturbed)
        shutil.rmtree(results)
        if status == "ok":
            break
        failures += 1
    assert status == "ok"
    assert failures >= 4


def fill(ballast: Path, left: int) -> None:
    """A file that leaves so many bytes of its disk."""
    free = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - left))


def outcome(results: Path) -> tuple[str, str]:
    try:
        record = run(results)
    except InputError as error:
        return "raised", str(error)
    return record.status, record.reason


# A machine that vanished.


def test_a_lock_file_left_behind_holds_nothing(tmp_path: Path, undisturbed: Path) -> None:
    results = tmp_path / "results"
    lock = results / "locks" / f"{identify(cell(results))[0]}.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("4711\nvanished.host\n")
    assert_completed(results, undisturbed)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock by the existence of a file, in their place, would hold for ever once its machine has vanished."""

    def unknown(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.raises(InputError, match=r"No locks available\); choose another with results=FOLDER") as caught:
        run(tmp_path / "results")
    assert "\n" not in str(caught.value)
    assert not [file for file in (tmp_path / "results").rglob("*") if file.is_file()]


def test_what_was_half_written_goes(tmp_path: Path, undisturbed: Path) -> None:
    results = tmp_path / "results"
    fit_id, run_id = identify(cell(results))
    for name in (f".{run_id}.json.dead.tmp", f"{run_id}/.curves.parquet.dead.tmp", f"fits/.{fit_id}.dead.tmp/weights.safetensors"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_bytes(b"{")
    assert_completed(results, undisturbed)


TRUNCATED: dict[str, Callable[[Path], object]] = {
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("how", TRUNCATED)
@pytest.mark.parametrize("name", ["weights.safetensors", "training.json"])
def test_weights_that_cannot_be_read_are_told_and_trained_again(tmp_path: Path, undisturbed: Path, name: str, how: str) -> None:
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    next(results.glob("*.json")).unlink()
    TRUNCATED[how](fit_folder(results) / name)
    if how == "gone":
        run(results)
    else:
        with pytest.warns(CorruptFit, match=r"is corrupt \(.*\): training it again"):
            run(results)
    assert trainings(tmp_path) == 1
    assert_completed(results, undisturbed)
    assert trainings(tmp_path) == 1


@pytest.mark.parametrize("how", TRUNCATED)
def test_a_record_that_cannot_be_read_is_told_and_made_again(tmp_path: Path, undisturbed: Path, how: str) -> None:
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    (file,) = results.glob("*.json")
    TRUNCATED[how](file)
    if how == "gone":
        assert recorded_status(cell(results)) == ""
    else:
        with pytest.raises(InputError, match=rf"{file.name} is corrupt .*; delete it and run again"):
            recorded_status(cell(results))
    assert_completed(results, undisturbed)
    assert trainings(tmp_path) == 0


@pytest.mark.parametrize("how", TRUNCATED)
def test_curves_that_cannot_be_read_are_made_again_by_force(tmp_path: Path, undisturbed: Path, how: str) -> None:
    """A report tells of them (`tests/reports`); the record does not depend on them."""
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    (curves,) = results.glob("*/curves.parquet")
    written = curves.read_bytes()
    TRUNCATED[how](curves)
    assert run(results).status == "ok"
    run_experiment(cell(results), force=True)
    assert curves.read_bytes() == written
    assert trainings(tmp_path) == 0


# Two launch hosts.


def test_two_hosts_run_every_cell_once(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    seeds = [0, 1, 2, 3]
    waiting = [start(tmp_path, order, partial(be_host, name)) for name, order in (("first", seeds), ("second", seeds[::-1]))]
    assert [wait() for wait in waiting] == [(0, [("ok", "")] * 4)] * 2
    assert sorted(record.seed for record in read_records(tmp_path / "results")) == seeds
    assert trainings(tmp_path) == 4
    hosts = {file.name.split(".")[1] for file in tmp_path.glob("trained.*")}
    assert hosts <= {"first", "second"}
    assert_whole(tmp_path / "results")


# Clocks.


@pytest.mark.parametrize("clock", [0.0, 5e9])
@pytest.mark.parametrize("written", [0, 5_000_000_000])
def test_times_decide_nothing(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, clock: float, written: int) -> None:
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    for file in results.rglob("*"):
        os.utime(file, (written, written))
    monkeypatch.setattr(time, "time", lambda: clock)
    (done,) = read_records(undisturbed)
    assert run(results) == done
    assert trainings(tmp_path) == 0
    with (results / "locks" / f"{done.fit_id}.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with hold_cell(results, done.fit_id, wait=False) as held:
            assert not held
    with hold_cell(results, done.fit_id, wait=False) as held:
        assert held


# A slow shared file system.


def test_what_another_host_wrote_may_appear_late(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell is run twice then, to the same record: nothing is taken for done, nothing is lost."""
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    read = Path.read_bytes

    def unseen(path: Path) -> bytes:
        if path.is_relative_to(results):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return read(path)

    with monkeypatch.context() as late:
        late.setattr(Path, "is_file", lambda path: False)
        late.setattr(Path, "exists", lambda path: False)
        late.setattr(Path, "read_bytes", unseen)
        assert run(results).status == "ok"
    assert trainings(tmp_path) == 1
    assert_completed(results, undisturbed)
    assert trainings(tmp_path) == 1


def test_a_listing_may_lack_new_files(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    assert run(results) == read_record(results / f"{identify(cell(results))[1]}.json")
    assert recorded_status(cell(results)) == "ok"


def test_a_rename_may_take_effect_late(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it does nothing is there, so that the cell is run again; then it brings the same."""
    results = tmp_path / "results"
    delayed: list[tuple[str, str]] = []
    with monkeypatch.context() as slow:
        slow.setattr(os, "replace", lambda source, target: delayed.append((source, target)))
        assert run(results).status == "ok"
        assert not list(results.glob("*.json"))
        assert run(results).status == "ok"
    assert trainings(tmp_path) == 2
    for source, target in delayed:
        # The second run has removed what looked half-written.
        if Path(source).exists():
            os.replace(source, target)
    assert_whole(results)
    assert_completed(results, undisturbed)
