"""Listing: what can be chosen, as rows. Built-ins are described from their source, without importing them."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from touchneedle.benchmark.overrides import describe_preset, members
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.conf.registry import BUILT_IN, Entry, Registry

KINDS = ("toys", "estimators", "metrics", "sweeps")


@dataclass(frozen=True)
class Row:
    """One component: ``broken`` says why it cannot be used, empty if it can."""

    kind: str
    name: str
    origin: str
    description: str
    broken: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def list_rows(kind: str) -> list[Row]:
    """Rows of one kind, or of all of them; raises `InputError` for an unknown kind."""
    if kind == "all":
        return [row for one in KINDS for row in list_rows(one)]
    if kind in ("toys", "estimators"):
        return _component_rows(registry.toys if kind == "toys" else registry.estimators)
    if kind == "metrics":
        return _metric_rows()
    if kind == "sweeps":
        names = [name for name in members("sweep") if name != "none"]
        return [Row("sweep", name, BUILT_IN, describe_preset("sweep", name)) for name in names]
    raise InputError(f"list: expected one of {', '.join((*KINDS, 'all'))}; got {kind!r}")


def describe(entry: Entry) -> str:
    """First docstring line of a component's class, read from its source file; empty if that is not to be had."""
    module, _, class_name = entry.target.partition(":")
    try:
        file = _source_file(module)
        tree = ast.parse(file.read_text(encoding="utf-8")) if file else None
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _component_rows(components: Registry) -> list[Row]:
    broken = components.broken()
    return [
        Row(components.kind, name, entry.distribution, describe(entry), broken.get(name, ""))
        for name, entry in components.entries().items()
    ]  # fmt: skip


def _metric_rows() -> list[Row]:
    from touchneedle.benchmark.evaluate import METRICS

    return [Row("metric", f"{metric.family}/{metric.name}", BUILT_IN, metric.description) for metric in METRICS]


def _source_file(module: str) -> Path | None:
    """The file of a module, found without importing it: only namespace packages are imported on the way."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = importlib.util.find_spec(".".join(parts[:depth]))
        if spec is None:
            return None
        if depth == len(parts):
            return Path(spec.origin) if spec.origin else None
        if spec.origin is not None:
            return _inside(Path(spec.origin).parent, parts[depth:])
    return None


def _inside(folder: Path, parts: list[str]) -> Path | None:
    stem = folder.joinpath(*parts)
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)
