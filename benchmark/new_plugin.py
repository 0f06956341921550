"""New plugins: a package with one small ratio estimator, its test and its entry point, made from templates."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

# Template -> where it goes in the package; $name stands for the name of the plugin.
TEMPLATES = {
    "plugin_pyproject.tmpl": "pyproject.toml",
    "plugin_readme.tmpl": "README.md",
    "plugin_init.tmpl": "$name/__init__.py",
    "plugin_estimator.tmpl": "$name/estimator.py",
    "plugin_test.tmpl": "tests/test_$name.py",
}


def write_plugin(name: str, parent: Path) -> Path:
    """Write the package ``parent/name``; raises `InputError` for a name that is taken or cannot be a module."""
    name = name.replace("-", "_")
    _check_name(name)
    folder = parent / name
    if folder.exists():
        raise InputError(f"new-plugin: {folder} exists already; choose another name or folder")
    values = {"name": name, "class_name": _class_name(name), "distribution": name.replace("_", "-")}
    for template, target in TEMPLATES.items():
        path = folder / Template(target).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = files("touchneedle.benchmark.templates").joinpath(template).read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(values), encoding="utf-8")
    return folder


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(f"new-plugin: expected a name of lower-case letters, digits and underscores, such as my_ratio; got {name!r}")
    if name in registry.estimators.names():
        raise InputError(f"new-plugin: estimator {name!r} exists already ({registry.estimators.entry(name).target}); choose another name")
    if importlib.util.find_spec(name) is not None:
        raise InputError(f"new-plugin: a Python module {name!r} is installed already; choose another name")


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
