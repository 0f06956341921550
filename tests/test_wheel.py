"""The wheel: it holds every file of the rooms, and works from anywhere without the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("conf", "toys", "estimators", "inference", "benchmark", "reports")
PACKAGED = {".py", ".typed", ".yaml", ".tmpl", ".html", ".css", ".js", ".json", ".parquet"}
TINY = (
    *("toy=gaussian_shift", "budget.n_train=400", "trainer.max_epochs=1"),
    *("evaluation.n_experiments=10", "evaluation.n_test=500", "evaluation.n_pool=1000", "evaluation.n_events=[50]"),
)

Shell = Callable[..., subprocess.CompletedProcess[str]]


def build_wheel(source: Path, out: Path) -> Path:
    """The wheel of a source folder; built from a copy, so that no build folder appears in it or gets into it."""
    copy = out / "source"
    git = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, capture_output=True, check=False).stdout.decode().split("\0")
    for name in filter(None, listed):
        if (source / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((source / name).read_bytes())
    return build(copy if listed != [""] else source, out)


def build(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def room_files() -> list[Path]:
    """Every file of the rooms but caches and leaderboards, which are made from records."""
    made = {ROOT / "reports" / "local", ROOT / "reports" / "reference"}
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*") if file.is_file()]
    return [file for file in files if "__pycache__" not in file.parts and made.isdisjoint(file.parents)]


def test_the_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    ours = {f"touchneedle/{file.relative_to(ROOT).as_posix()}" for file in room_files() if file.suffix in PACKAGED}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == ours
    assert {Path(name).suffix for name in ours} == PACKAGED


def test_no_file_of_the_rooms_is_of_an_unknown_kind() -> None:
    assert {file.suffix for file in room_files()} <= PACKAGED


def test_the_wheel_names_its_command_and_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "touchneedle = touchneedle.benchmark.main:main" in archive.read(names["entry_points.txt"]).decode()
    assert "licenses/LICENSE" in names


# Installed into a folder, used from another one.


def install(wheel: Path, site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(wheel, folder)
    return folder


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> Shell:
    """The installed command, from a folder that has nothing to do with the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(site / "bin/touchneedle"), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return call


@pytest.mark.slow
def test_it_is_the_installed_one(installed: Shell, site: Path) -> None:
    code = "import touchneedle.benchmark.main as main; print(main.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(site)


@pytest.mark.slow
def test_every_command_works_installed(installed: Shell, tmp_path: Path) -> None:
    assert "zuko_nsf" in installed("list").stdout
    assert {row["kind"] for row in json.loads(installed("list", "--json").stdout)} == {"toy", "estimator", "metric", "sweep"}
    assert "0.1.0" in installed("doctor").stdout
    assert "0 done, " in installed("plan", "-m", "sweep=smoke", "-o", "jobs.txt", "--templates", "jobs").stdout
    assert sorted(file.name for file in (tmp_path / "jobs").iterdir()) == ["Snakefile", "job.slurm", "job.sub", "law_tasks.py"]
    assert "1 ok" in installed("run", *TINY, "estimator=best_gaussian").stdout
    installed("report", "results/local", "-o", "reports/local")
    assert "best_gaussian" in (tmp_path / "reports/local/leaderboard.html").read_text()
    installed("check", "gaussian_shift")


@pytest.mark.slow
def test_a_generated_plugin_installs_beside_it(installed: Shell, site: Path, tmp_path: Path) -> None:
    installed("new-plugin", "my_ratio")
    install(build(tmp_path / "my_ratio", tmp_path), site)
    assert "my-ratio 0.1.0" in installed("list", "estimators").stdout
    assert "2 ok" in installed("run", "-m", *TINY, "estimator=my_ratio,oracle").stdout
    installed("report", "results/local", "-o", "reports/local")
    assert "my_ratio" in (tmp_path / "reports/local/leaderboard.csv").read_text()


# A bundle leaves the benchmark: another machine has the base install and nothing else.

BLOCKER = """
import sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
"""
NOT_IN_THE_BASE = (
    *("zuko", "nflows", "normflows", "lightning", "pytorch_lightning", "hydra", "omegaconf", "pandas", "sklearn"),
    *("matplotlib", "seaborn", "ot", "jinja2", "joblib", "onnx", "onnxruntime", "onnxscript"),
)


@pytest.fixture(scope="module")
def fresh_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel's base install from the package index."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(folder / "bin/pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution found" in done.stderr or "connection" in done.stderr.lower():
        pytest.skip("no package index to install the base from")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(params=["extras_blocked", "fresh_environment"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The installed command where no extra can be imported, in a folder of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    if request.param == "fresh_environment":
        program = [str(request.getfixturevalue("fresh_environment") / "bin/touchneedle")]
    else:
        site = request.getfixturevalue("site")
        (folder / "sitecustomize.py").write_text(BLOCKER.format(names=NOT_IN_THE_BASE))
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(site)])
        program = [sys.executable, str(site / "bin/touchneedle")]

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [*program, *map(str, words)]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("estimator=best_gaussian",), ("estimator=mixture_density", "ensemble=four", "trainer.max_epochs=5")],
    ids=["closed_form", "ensemble"],
)
def test_a_bundle_gives_the_same_fit_with_the_base_install_alone(
    installed: Shell, base: Shell, tmp_path: Path, options: tuple[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from touchneedle.inference import fit, load_bundle, read_events

    installed("run", *TINY, "evaluation.families=[fit]", *options)
    (record,) = (tmp_path / "results/local").glob("*.json")
    installed("deploy", record, "-o", "bundle")
    bundle = load_bundle(tmp_path / "bundle", graph=True)
    x = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pq.write_table(pa.table({"x": x.numpy()}), tmp_path / "events.parquet")
    here = fit(bundle.likelihood, read_events(tmp_path / "events.parquet", bundle.manifest.toy))

    # The bundle and nothing else of this folder goes along.
    (tmp_path / "bundle").rename(tmp_path / "moved")
    done = base("fit", tmp_path / "moved", tmp_path / "events.parquet", "--scan", "shift", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    there = json.loads((tmp_path / "out/measurement.json").read_text())["fit"]
    torch.testing.assert_close(torch.tensor(there["theta"], dtype=torch.float64), here.theta, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.tensor(there["covariance"], dtype=torch.float64), here.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_bundle_that_needs_an_extra_names_it(installed: Shell, base: Shell, tmp_path: Path) -> None:
    installed("run", *TINY, "evaluation.families=[fit]", "estimator=zuko_maf")
    (record,) = (tmp_path / "results/local").glob("*.json")
    installed("deploy", record, "-o", "bundle")
    done = base("fit", tmp_path / "bundle", tmp_path / "events.parquet")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "'zuko_maf' needs the package zuko; pip install 'touchneedle[bench]'" in line
