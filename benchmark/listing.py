"""Listing: what can be chosen, as rows. Built-ins are described from their source, without importing them.

``python -m touchneedle.benchmark.listing`` rewrites the table of components in the README of a checkout.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from touchneedle.benchmark.definitions import gate_definitions, metric_definitions
from touchneedle.benchmark.overrides import describe_preset, members
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.conf.registry import BUILT_IN, Entry, Registry
from touchneedle.conf.sources import class_node

KINDS = ("toys", "estimators", "metrics", "sweeps")
_MARKED = re.compile(r"(<!-- components.*?-->\n).*?(<!-- /components -->)", re.DOTALL)


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
    node = class_node(entry)
    return (ast.get_docstring(node) or "").partition("\n")[0] if node else ""


def components_markdown() -> str:
    """Built-in toys and estimators as two Markdown tables (imports all of them)."""
    toys = [(f"`{name}`", _summary(registry.toys, name), _parameters(name)) for name in registry.TOY_TABLE]
    estimators = []
    for name in registry.ESTIMATOR_TABLE:
        family, text = _family(name), _summary(registry.estimators, name)
        text = text.removeprefix(f"{family.capitalize()}: ")
        estimators.append((f"`{name}`", family, text[0].upper() + text[1:]))
    toy_table = _markdown(("toy", "what it is", "parameters (of interest: bold)"), toys)
    return f"{toy_table}\n{_markdown(('estimator', 'family', 'what it is'), estimators)}"


def with_components(readme: str) -> str:
    """The text with the tables between its two ``components`` comments; raises `InputError` without them."""
    if not _MARKED.search(readme):
        raise InputError("README: expected the comments <!-- components ... --> and <!-- /components -->; they are missing")
    return _MARKED.sub(lambda found: f"{found[1]}\n{components_markdown()}\n{found[2]}", readme)


def _summary(components: Registry, name: str) -> str:
    """First line of the module that holds a component."""
    module = sys.modules[components.load(name).__module__]
    return (module.__doc__ or "").strip().partition("\n")[0]


def _parameters(toy: str) -> str:
    """Names of the parameters; the options that must be given first, for a toy without defaults."""
    from touchneedle.toys.base import build_toy

    toy_class: Any = registry.toys.load(toy)
    needed = [f"`toy.{field.name}=`" for field in fields(toy_class.Config) if field.default is MISSING and field.default_factory is MISSING]
    if needed:
        return f"needs {', '.join(needed)}"
    parameters = build_toy(toy).spec.parameters.parameters
    return ", ".join(f"**{p.name}**" if p.kind == "interest" else p.name for p in parameters)


def _family(estimator: str) -> str:
    """``control`` or ``baseline`` where its module says so, else by what it learns: p(x|theta), p(theta|x) or a ratio."""
    said = _summary(registry.estimators, estimator).partition(":")[0].lower()
    if said in ("control", "baseline"):
        return said
    chosen: Any = registry.estimators.load(estimator)
    if "posterior_log_prob" in chosen.capabilities:
        return "NPE"
    return "NLE" if "log_prob" in chosen.capabilities else "NLRE"


def _markdown(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _component_rows(components: Registry) -> list[Row]:
    broken = components.broken()
    return [
        Row(components.kind, name, entry.distribution, describe(entry), broken.get(name, ""))
        for name, entry in components.entries().items()
    ]  # fmt: skip


def _metric_rows() -> list[Row]:
    return [Row("metric", name, BUILT_IN, about) for name, about in (metric_definitions() | gate_definitions()).items()]


def rewrite(readme: Path) -> None:
    """Bring the tables of a README up to date."""
    readme.write_text(with_components(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path("README.md"))
