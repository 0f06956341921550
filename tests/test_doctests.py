"""Every module imports by its own name, and the examples in its docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("conf", "toys", "estimators", "inference", "benchmark", "reports")


def module_names() -> list[str]:
    files = sorted(file.relative_to(ROOT).with_suffix("") for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    return [".".join(["touchneedle", *(part for part in file.parts if part != "__init__")]) for file in files]


def test_modules_are_found() -> None:
    assert {"touchneedle.conf", "touchneedle.toys.base", "touchneedle.benchmark.metrics.fit"} <= set(module_names())


@pytest.mark.parametrize("name", module_names())
def test_examples_are_true(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__name__ == name
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    module = importlib.import_module("touchneedle.benchmark.overrides")
    assert doctest.testmod(module).attempted >= 2


def test_a_false_example_is_noticed() -> None:
    parser = doctest.DocTestParser()
    example = parser.get_doctest(">>> 1 + 1\n3\n", {}, "false", None, None)
    assert doctest.DocTestRunner(verbose=False).run(example, out=lambda _: None).failed == 1
