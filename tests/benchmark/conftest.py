"""Fixtures: a stand-in for training (command line), and estimators with planted defects (closure)."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def load(name):
    """A file of this folder as a module."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def plant():
    """``planted_ratios.py``."""
    return load("planted_ratios")


@pytest.fixture
def stand_in(monkeypatch):
    """`touchneedle.benchmark.run`, `cell_checks` and `identity` replaced by ``stand_in.py`` in this process."""
    module = load("stand_in")
    for name in ("cell_checks", "run", "identity"):
        monkeypatch.setitem(sys.modules, f"touchneedle.benchmark.{name}", module)
    return module
