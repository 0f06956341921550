"""The house: data flows left to right, every package is in the wheel, names agree everywhere."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from touchneedle.conf import registry

ROOT = Path(__file__).parents[1]
ROOMS = ("conf", "toys", "estimators", "inference", "benchmark", "reports")
# The stricter rules of the design: what a room may import at all.
ALLOWED = {
    "conf": (),
    "toys": ("conf",),
    "estimators": ("conf", "toys.base"),
    "inference": ("conf", "toys.base", "estimators.base", "estimators.interpolation"),
    "reports": ("conf", "benchmark.records", "benchmark.config", "benchmark.definitions", "benchmark.verdicts", "benchmark.export_rows"),
}
OWNERS = {"lightning": {"benchmark/lightning_loop.py", "benchmark/tracking.py"}, "hydra": {"benchmark/compose.py", "benchmark/sweep.py"}}


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
            if node.module and node.module.count(".") == 1:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_left(room: str) -> None:
    wrong = []
    for path in python_files(room):
        for name in imported_modules(path):
            parts = name.split(".")
            if name.startswith(".") or parts[0] in ROOMS:
                wrong.append(f"{path.name}: {name} (use touchneedle.*)")
            elif parts[0] == "touchneedle" and len(parts) > 1 and ROOMS.index(parts[1]) > ROOMS.index(room):
                wrong.append(f"{path.name}: {name}")
    assert not wrong


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_only_what_the_design_allows(room: str) -> None:
    wrong = []
    for path in python_files(room):
        for name in imported_modules(path):
            target = name.removeprefix("touchneedle.")
            if name == target or target.split(".")[0] == room or target in ROOMS:
                continue
            if not any(target == allowed or target.startswith(f"{allowed}.") for allowed in ALLOWED[room]):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


@pytest.mark.parametrize(("library", "owners"), sorted(OWNERS.items()))
def test_frameworks_stay_where_they_belong(library: str, owners: set[str]) -> None:
    importers = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in python_files(room)
        if any(name == library or name.startswith(f"{library}.") for name in imported_modules(path))
    }
    assert importers == owners


def test_every_package_folder_is_in_the_wheel() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        "touchneedle." + ".".join(path.parent.relative_to(ROOT).parts) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(config["packages"]) == folders
    assert set(config["package-dir"]) == folders


def test_every_typed_package_says_so() -> None:
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            assert (init.parent / "py.typed").is_file(), init.parent


@pytest.mark.parametrize("table", [registry.TOY_TABLE, registry.ESTIMATOR_TABLE], ids=["toys", "estimators"])
def test_one_name_everywhere(table: dict[str, str]) -> None:
    assert list(table) == sorted(table)
    for name, target in table.items():
        module, _, class_name = target.partition(":")
        assert module.endswith(f".{name}")
        assert re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower() == name


def test_every_module_has_a_docstring() -> None:
    missing = [
        str(path.relative_to(ROOT)) for room in ROOMS for path in python_files(room) if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not missing


def test_inference_needs_the_base_install_alone() -> None:
    heavy = ("hydra", "lightning", "pandas", "matplotlib", "seaborn", "sklearn", "zuko", "jinja2")
    code = f"""
import sys, importlib, pathlib
for file in sorted(pathlib.Path({str(ROOT / "inference")!r}).glob('*.py')):
    importlib.import_module('touchneedle.inference.' + file.stem if file.stem != '__init__' else 'touchneedle.inference')
print(','.join(name for name in {heavy!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / ".typing", check=True)
    assert done.stdout.strip() == ""
