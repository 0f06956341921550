"""New plugins: the generated package compiles, registers and, installed, is found."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from touchneedle.benchmark.new_plugin import write_plugin
from touchneedle.conf.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_plugin("my-new_ratio", tmp_path_factory.mktemp("plugins"))


def test_files_and_names(package):
    names = sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
    assert names == ["README.md", "my_new_ratio/__init__.py", "my_new_ratio/estimator.py", "pyproject.toml", "tests/test_my_new_ratio.py"]
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["name"] == "my-new-ratio"
    assert project["entry-points"]["touchneedle.estimators"] == {"my_new_ratio": "my_new_ratio.estimator:MyNewRatio"}


def test_every_file_compiles(package):
    for file in package.rglob("*.py"):
        compile(file.read_text(), str(file), "exec")
    assert not [file for file in package.rglob("*") if file.is_file() and "$" in file.read_text()]


def test_generated_code_is_clean(package):
    for command in (["check", "--select", "E,F,I,UP,B"], ["format", "--check"]):
        line = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "140", "--target-version", "py311", "."]
        done = subprocess.run(line, cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_estimator_has_a_loss_and_a_ratio(package):
    """In a process of its own: nothing of the package stays behind in this one."""
    program = """
import torch
from my_new_ratio.estimator import MyNewRatio, MyNewRatioConfig
from touchneedle.toys.base import Events, Feature, Normal, Parameter, ParameterSpace, ToySpec

space = ParameterSpace((Parameter("mu", "interest", 0.0, (-5.0, 5.0), Normal(0.0, 1.0)),))
spec = ToySpec("line", "1", space, (Feature("x"),), ("all",))
generator = torch.Generator().manual_seed(0)
theta = torch.randn(256, 1, generator=generator)
events = Events(x=theta + torch.randn(256, 1, generator=generator), theta=theta, weight=torch.ones(256))
estimator = MyNewRatio(spec, MyNewRatioConfig())
estimator.prepare(events)
losses = []
optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
for step in range(60):
    optimizer.zero_grad()
    loss = estimator.loss(events, generator).mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0] - 0.1, losses
assert torch.equal(estimator.log_ratio(events.x, space.nominal), torch.zeros(256, dtype=torch.float64))
assert estimator.log_ratio(torch.tensor([[2.0]]), torch.tensor([1.0])).item() > 0
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / ".typing"), str(package)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("9lives", "lower-case letters"),
        ("Caps", "lower-case letters"),
        ("../evil", "lower-case letters"),
        ("class", "lower-case letters"),
        ("ratio_bce", "exists already"),
        ("torch", "installed already"),
    ],
)
def test_bad_names(name, says, tmp_path):
    with pytest.raises(InputError, match=says):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    write_plugin("my_ratio_again", tmp_path)
    with pytest.raises(InputError, match="exists already"):
        write_plugin("my_ratio_again", tmp_path)


@pytest.mark.slow
def test_installed_wheel_is_listed_checked_and_tested(package, shell, tmp_path):
    """What a method author does: build, install, list, check, pytest."""
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
        str(package),
    ]
    subprocess.run(install, check=True, capture_output=True)
    paths = os.pathsep.join([str(target), str(ROOT / ".typing")])
    listed = shell("list", "estimators", PYTHONPATH=paths)
    assert "estimator\tmy_new_ratio\tmy-new-ratio 0.1.0\tClassifier of simulated against shuffled pairs" in listed.stdout
    checked = shell("check", "my_new_ratio", PYTHONPATH=paths)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests"], cwd=package, env=environment, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout
