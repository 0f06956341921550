"""Bad input ends in one clear line and leaves no half-written record; the rest of a sweep goes on; kills do no harm."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from touchneedle.benchmark.records import read_records
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

ROOT = Path(__file__).parents[1]
TINY = (
    *("toy=gaussian_shift", "estimator=best_gaussian", "budget.n_train=400"),
    *("evaluation.n_experiments=10", "evaluation.n_test=500", "evaluation.n_pool=1000", "evaluation.n_events=[50]"),
)


def assert_one_error(result: Any, says: str, code: int = 2) -> None:
    """One line on stderr that says it, no traceback anywhere, the exit code of a failure."""
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert says in line
    assert "Traceback" not in result.output


def assert_nothing_half_written(folder: Path, records: int = 0) -> None:
    assert not list(folder.rglob("*.tmp"))
    good = [record for file in folder.glob("results/*/*.json") if (record := json.loads(file.read_text()))["status"] == "ok"]
    assert len(good) == records


# Words that cannot be right.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["toy=gaussian_shft"], "unknown toy 'gaussian_shft'; did you mean 'gaussian_shift'? Known: "),
        (["estimator=xyzzy"], "unknown estimator 'xyzzy'. Known: affine_flow, best_gaussian, "),
        (["toy.slope=1"], "toy gaussian_shift: unknown option 'slope'"),
        (["estimator=ratio_bce", "estimator.layers=3"], "estimator ratio_bce: unknown option 'layers'"),
        (["trainer.epochs=3"], "unknown option 'trainer.epochs'; known: trainer."),
        (["toy.a=wide"], "toy gaussian_shift: option a: "),
        (["estimator=ratio_bce", "estimator.hidden=wide"], "estimator ratio_bce: option hidden: "),
        (["budget.n_train=many"], "option budget.n_train: "),
        (["evaluation.n_test=0"], "option evaluation.n_test: "),
        (["evaluation.n_events=[]"], "option evaluation.n_events: "),
        (["trainer.batch_size=-1"], "option trainer.batch_size: "),
        (["optimizer.learning_rate=0"], "option optimizer.learning_rate: "),
    ],
)
def test_wrong_words(cli, tmp_path, words, says):
    assert_one_error(cli("run", *TINY, *words), says)
    assert_nothing_half_written(tmp_path)
    assert not (tmp_path / "results").exists()


# Event files.


def events(n: int = 200) -> dict[str, list[Any]]:
    generator = torch.Generator().manual_seed(0)
    mass = torch.randn(n, generator=generator, dtype=torch.float64)
    return {"mass": mass.tolist(), "weights": [1.0] * n, "detailed_labels": ["htautau", "ztautau"] * (n // 2)}


def write_events(path: Path, **changes: list[Any] | None) -> None:
    table = {name: column for name, column in (events() | changes).items() if column is not None}
    pq.write_table(pa.table(table), path)


def truncate(path: Path) -> None:
    write_events(path)
    path.write_bytes(path.read_bytes()[:-100])


def with_first(name: str, value: float) -> Callable[[Path], None]:
    return lambda path: write_events(path, **{name: [value, *events()[name][1:]]})


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "expected a parquet file; there is none"),
    "empty": (lambda path: path.touch(), "expected a complete parquet file"),
    "no rows": (lambda path: write_events(path, **{name: pa.array([], pa.float64()) for name in events()}), "it has 0 rows"),
    "truncated": (truncate, "expected a complete parquet file"),
    "no weights": (lambda path: write_events(path, weights=None), "no column 'weights'; its columns are mass, detailed_labels"),
    "NaN feature": (with_first("mass", float("nan")), "column 'mass': expected finite numbers; 1 of 200"),
    "infinite feature": (with_first("mass", float("inf")), "column 'mass': expected finite numbers; 1 of 200"),
    "NaN weight": (with_first("weights", float("nan")), "column 'weights': expected finite numbers; 1 of 200"),
    "zero weights": (lambda path: write_events(path, weights=[0.0] * 200), "column 'weights': expected weights; all 200 are zero"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_event_files(cli, tmp_path, case):
    write, says = BAD_FILES[case]
    write(tmp_path / "events.parquet")
    result = cli("run", *TINY, "toy=event_table", "toy.path=events.parquet", "estimator=ratio_bce")
    assert_one_error(result, says)
    assert "events.parquet" in result.stderr
    assert_nothing_half_written(tmp_path)


def test_a_good_event_file_is_not_refused(cli, tmp_path):
    write_events(tmp_path / "events.parquet")
    result = cli("run", *TINY, "toy=event_table", "toy.path=events.parquet", "estimator=ratio_bce", "--dry-run")
    assert result.exit_code == 0, result.output


# Records and folders.


@pytest.fixture
def recorded(cli, tmp_path):
    """A results folder with one good record; its file."""
    assert cli("run", *TINY).exit_code == 0
    (file,) = (tmp_path / "results/local").glob("*.json")
    return file


@pytest.mark.parametrize("content", ["", '{"run_id": 1}', "\0\0\0"])
def test_a_corrupt_record_is_told_by_run_and_report(cli, recorded, content):
    recorded.write_text(content)
    assert_one_error(cli("run", *TINY), f"{recorded.name} is corrupt")
    result = cli("report", "results/local")
    assert result.exit_code != 0
    assert recorded.name in result.stderr
    assert "Traceback" not in result.output
    assert recorded.read_text() == content


def test_a_corrupt_record_does_not_hide_the_others(cli, recorded, tmp_path):
    (recorded.parent / "ffffffffffffffff.json").write_text("{")
    result = cli("report", "results/local")
    assert_one_error(result, "ffffffffffffffff.json", code=1)
    assert "best_gaussian" in (tmp_path / "reports/local/leaderboard.md").read_text()


@pytest.mark.parametrize("folder", ["a_file/results", "/proc/touchneedle"])
def test_an_unwritable_results_folder(cli, tmp_path, folder):
    (tmp_path / "a_file").write_text("")
    assert_one_error(cli("run", *TINY, f"results={folder}"), "choose a writable folder")
    assert_nothing_half_written(tmp_path)


@pytest.mark.parametrize("written_before", [0, 1, 2, 3])
def test_no_space_left(cli, tmp_path, monkeypatch, written_before):
    """The disk is full from the first, second, ... file on."""
    synchronise, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > written_before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert_one_error(cli("run", *TINY), "No space left on device", code=2 if written_before == 0 else 1)
    monkeypatch.undo()
    assert_nothing_half_written(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli("run", *TINY).exit_code == 0
    assert_nothing_half_written(tmp_path, records=1)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_no_space_for_the_weights(cli, small_disk):
    result = cli("run", *TINY, "estimator=ratio_bce", "trainer.max_epochs=1", f"results={small_disk}/results/a")
    assert_one_error(result, "No space left on device", code=1)
    assert "choose a writable folder with free space" in result.stderr
    assert_nothing_half_written(small_disk)


# Plugins.

ESTIMATOR = '''"""A plugin."""
from dataclasses import dataclass
from touchneedle.estimators.base import Estimator

@dataclass
class Config:
    pass

class Half(Estimator):
    """Half of the shift."""
    Config = Config
    normalised = True
    def _log_ratio(self, x, theta):
        return (x[:, 0] - theta[:, 0] / 4) * theta[:, 0] / 2
'''


def install(site: Path, name: str, code: str, class_name: str) -> None:
    """What pip leaves of a package with one estimator of that name."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}_plugin-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[touchneedle.estimators]\n{name} = {name}:{class_name}\n")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A working plugin ``half`` and a broken one ``sad``, installed."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "half", ESTIMATOR, "Half")
    install(site, "sad", "raise ValueError('no luck\\ntoday')\n", "Sad")
    monkeypatch.syspath_prepend(site)
    yield site
    for name in ("half", "sad"):
        sys.modules.pop(name, None)


def test_a_plugin_file_that_raises(cli, tmp_path):
    (tmp_path / "sad.py").write_text("raise ValueError('no luck\\ntoday')\n")
    assert_one_error(cli("run", *TINY, "--plugin", "sad.py"), "sad.py failed to import: ValueError: no luck")
    assert_nothing_half_written(tmp_path)


def test_installed_plugins_are_listed_working_or_broken(cli, installed):
    result = cli("list", "estimators", "--json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert (rows["half"]["origin"], rows["half"]["description"], rows["half"]["broken"]) == ("half-plugin 1.2", "Half of the shift.", "")
    assert rows["sad"]["broken"] == "estimator 'sad' from sad-plugin 1.2 failed to import: ValueError: no luck"
    assert "oracle" in rows


def test_a_broken_installed_plugin_is_one_line(cli, installed):
    assert_one_error(cli("run", *TINY, "estimator=sad"), "estimator 'sad' from sad-plugin 1.2 failed to import: ValueError: no luck")


def test_a_sweep_goes_on_after_a_broken_plugin_and_reports_the_working_one(cli, installed, tmp_path):
    result = cli("run", "-m", *TINY, "estimator=sad,half")
    assert_one_error(result, "invalid", code=1)
    assert result.stdout.splitlines()[-1].startswith("2 cells: 1 ok, 0 skipped, 0 failed, 0 already done, 1 invalid")
    assert_nothing_half_written(tmp_path, records=1)
    assert cli("report", "results/local").exit_code == 0
    for ending in ("html", "md", "csv"):
        assert "half" in (tmp_path / f"reports/local/leaderboard.{ending}").read_text(), ending


# A sweep with one bad cell.


def test_a_sweep_goes_on_after_a_bad_file(cli, tmp_path):
    write_events(tmp_path / "good.parquet")
    truncate(tmp_path / "bad.parquet")
    words = ("toy=event_table", "toy.path=bad.parquet,good.parquet", "estimator=ratio_bce", "budget.n_train=80", "trainer.max_epochs=1")
    result = cli("run", "-m", *TINY, *words)
    assert_one_error(result, "bad.parquet: expected a complete parquet file", code=1)
    assert result.stdout.splitlines()[-1].startswith("2 cells: 1 ok, 0 skipped, 0 failed, 0 already done, 1 invalid")
    assert_nothing_half_written(tmp_path, records=1)


def test_a_sweep_goes_on_after_a_cell_that_fails_while_it_runs(cli, tmp_path):
    register = "from touchneedle.estimators.base import register_estimator\nregister_estimator('sour')(Half)\n"
    fail = "    def _prepare(self, source):\n        raise RuntimeError('out of milk')\n"
    (tmp_path / "sour.py").write_text(ESTIMATOR + fail + register)
    result = cli("run", "-m", *TINY, "estimator=sour,best_gaussian", "--plugin", "sour.py")
    assert_one_error(result, "RuntimeError: out of milk", code=1)
    assert_nothing_half_written(tmp_path, records=1)
    assert sorted(record.status for record in read_records("results/local")) == ["failed", "ok"]


# From Python.


@pytest.mark.parametrize("name", ["oracle", "best_gaussian", "ratio_bce"])
@pytest.mark.parametrize(("x", "theta"), [((5, 2), (5, 3)), ((5, 1), (4, 3)), ((5, 1), (5, 2)), ((5,), (5, 3)), ((1, 5, 1), (5, 3))])
def test_batches_of_wrong_shape(name, x, theta):
    toy = build_toy("gaussian_shift")
    estimator = build_estimator(name, toy.spec, truth=toy)
    with pytest.raises(InputError, match=r"^(x|theta): expected shape [^\n]*; got [^\n]*\Z"):
        estimator.log_ratio(torch.zeros(x), torch.zeros(theta))


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_theta_outside_its_bounds(value):
    toy: Any = build_toy("gaussian_shift")
    theta = toy.spec.parameters.nominal.repeat(4, 1)
    theta[2, 0] = value
    generator = torch.Generator().manual_seed(0)
    for ask in (lambda: toy.sample(theta, generator=generator), lambda: toy.log_prob(torch.zeros(4, 1), theta)):
        with pytest.raises(InputError, match=r"^parameter shift: expected a value in [^\n]*; got [^\n]*\Z"):
            ask()


# Kills.

# Kills its own process, once at each moment; leaves a file for every training.
MORTAL = """
import os, pathlib, signal, uuid
from dataclasses import dataclass
import touchneedle.benchmark.records as records
from touchneedle.estimators.base import Estimator, register_estimator

FOLDER = pathlib.Path(__file__).parent

def die_once(moment):
    try:
        (FOLDER / f"died.{moment}").touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

@dataclass
class Config:
    pass

@register_estimator("mortal")
class Mortal(Estimator):
    Config = Config
    normalised = True
    def _prepare(self, source):
        (FOLDER / f"trained.{uuid.uuid4().hex}").touch()
        die_once("training")
    def _log_ratio(self, x, theta):
        die_once("scoring")
        return x[:, 0] * theta[:, 0] - theta[:, 0] ** 2 / 2

rename = os.replace
def replace(source, target):
    if str(target).endswith(".json"):
        die_once("writing")
    rename(source, target)
records.os.replace = replace
"""


@pytest.mark.slow
def test_a_killed_sweep_completes_when_the_command_is_repeated(shell, tmp_path):
    (tmp_path / "mortal.py").write_text(MORTAL)
    command = ("run", "-m", *TINY, "estimator=mortal", "seed=0,1,2,3", "--plugin", "mortal.py")
    codes = [shell(*command).returncode for _ in range(4)]
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert sorted(file.name for file in tmp_path.glob("died.*")) == ["died.scoring", "died.training", "died.writing"]
    records = read_records(tmp_path / "results/local")
    assert [(record.status, record.reason) for record in records] == [("ok", "")] * 4
    assert sorted(record.seed for record in records) == [0, 1, 2, 3]
    # The first training was lost with its process; the fits that were being scored or recorded were not.
    assert len(list(tmp_path.glob("trained.*"))) == 4 + 1
    assert_nothing_half_written(tmp_path, records=4)
