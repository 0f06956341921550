"""Fixtures of whole-project tests: the command in this process, and in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """The command in this process, in an empty folder: ``cli("run", "seed=1")`` -> result with exit_code, stdout, stderr."""
    from touchneedle.benchmark.main import app

    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="touchneedle")


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in a process of its own, as a user calls it; keyword arguments are environment variables, None for none."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing"), "OMP_NUM_THREADS": "1"}

    def call(*words: object, **variables: str | None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "touchneedle.benchmark.main", *map(str, words)]
        settings = {name: value for name, value in {**environment, **variables}.items() if value is not None}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=300, check=False)

    return call
