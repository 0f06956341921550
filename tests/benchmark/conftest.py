"""A fixture of the command line's tests: a stand-in for training."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def stand_in(monkeypatch):
    """`touchneedle.benchmark.run` and `identity` replaced by ``stand_in.py`` in this process."""
    spec = importlib.util.spec_from_file_location("stand_in", HERE / "stand_in.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("run", "identity"):
        monkeypatch.setitem(sys.modules, f"touchneedle.benchmark.{name}", module)
    return module
