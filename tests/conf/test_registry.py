"""The registry: three doors, clear errors, a broken plugin never hides the rest."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.conf.registry import Registry, build_options, load_plugin_file


@pytest.fixture
def table() -> Registry:
    return Registry("toy", {"one": "collections:OrderedDict"})


def test_unknown_name_suggests_and_lists() -> None:
    with pytest.raises(InputError, match="did you mean 'mass_bump'.*Known: .*two_moons"):
        registry.toys.load("mass_bumb")


def test_decorator_registers_and_refuses_a_second_claim(table: Registry) -> None:
    @table.register("two")
    class Two:
        pass

    assert table.load("two") is Two
    assert table.names() == ["one", "two"]
    with pytest.raises(InputError, match="exists already"):
        table.register("one")(Two)


def test_broken_plugins_are_reported_by_name(table: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("bad", "no_such_module:Thing", table.group), EntryPoint("fine", "collections:Counter", table.group)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert table.names() == ["bad", "fine", "one"]
    assert list(table.broken()) == ["bad"]
    assert "no_such_module" in table.broken()["bad"]
    assert table.load("fine").__name__ == "Counter"
    with pytest.raises(InputError, match="'bad' from .* failed to import: ModuleNotFoundError"):
        table.load("bad")


def test_two_distributions_with_one_name_are_named(table: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("one", "collections:Counter", group)])
    with pytest.raises(InputError, match="claimed twice: by collections:OrderedDict .* and collections:Counter"):
        table.names()


def test_plugin_file_with_an_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('first line\\nsecond')")
    with pytest.raises(InputError, match=r"bad\.py failed to import: RuntimeError: first line$"):
        load_plugin_file(tmp_path / "bad.py")
    with pytest.raises(InputError, match="no such file"):
        load_plugin_file(tmp_path / "none.py")


def test_options_name_the_wrong_field() -> None:
    from dataclasses import dataclass

    @dataclass
    class Config:
        layers: int = 3
        kind: str = "a"

    assert build_options(Config, {"layers": 5}, "estimator x") == Config(5)
    with pytest.raises(InputError, match=r"estimator x: unknown option 'layer' \(did you mean 'layers'\?\); known options: layers, kind"):
        build_options(Config, {"layer": 5}, "estimator x")
    with pytest.raises(InputError, match="estimator x: option layers: .* got 'two'"):
        build_options(Config, {"layers": "two"}, "estimator x")
