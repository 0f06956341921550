"""Fixtures of the command line's tests: a stand-in for training, and the command itself."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def stand_in(monkeypatch):
    """`touchneedle.benchmark.run` replaced by ``stand_in.py`` in this process."""
    spec = importlib.util.spec_from_file_location("stand_in", HERE / "stand_in.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "touchneedle.benchmark.run", module)
    return module


@pytest.fixture
def cli(monkeypatch, tmp_path):
    """The command in this process, in an empty folder: ``cli("run", "seed=1")`` -> result with exit_code, stdout, stderr."""
    from touchneedle.benchmark.main import app

    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="touchneedle")


@pytest.fixture
def shell(tmp_path):
    """The command in a process of its own, as a user calls it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing"), "OMP_NUM_THREADS": "1"}

    def call(*words, **variables):
        command = [sys.executable, "-m", "touchneedle.benchmark.main", *(str(word) for word in words)]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True, timeout=120, check=False
        )

    return call
