"""What the source file of a component says of it: read, never imported. Where it is not to be had, nothing is said."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from touchneedle.conf import registry
from touchneedle.conf.errors import InputError
from touchneedle.conf.registry import BUILT_IN, Entry, Registry

_ARXIV = re.compile(r"arXiv:\s*(\d{4}\.\d{4,5})")
_EXPOSES = re.compile(r"Exposes:\s*(.+?)(?:\n\s*\n|\Z)", re.DOTALL)
_TRUTHS = {"ExactToy": "exact density", "SignedToy": "signed weights", "FiniteToy": "fixed sample", "MinedToy": "fixed sample"}


@dataclass(frozen=True)
class Source:
    """An estimator or a toy in its author's words.

    Attributes:
        about: first line of the module.
        exposes: what a toy is there to expose.
        citations: arXiv numbers that the source names.
        truth: of a toy: ``exact density``, ``signed weights`` or ``fixed sample``.
        regular: of a toy: its likelihood has one maximum.
        interest: parameters of interest that are named one by one.
        nuisances: nuisance parameters that are named one by one.
        counted: every nuisance is named; otherwise an option sets their number.
    """

    about: str = ""
    exposes: str = ""
    citations: tuple[str, ...] = ()
    truth: str = ""
    regular: bool = True
    interest: tuple[str, ...] = ()
    nuisances: tuple[str, ...] = ()
    counted: bool = True


class Sources:
    """The sources of all components that are installed; looks for them once."""

    def __init__(self) -> None:
        self._toys, self._estimators = _entries(registry.toys), _entries(registry.estimators)

    def toy(self, name: str) -> Source:
        """What the source of a toy says."""
        return _read(self._toys[name]) if name in self._toys else Source()

    def estimator(self, name: str, distribution: str) -> Source:
        """What the source of an estimator says, if the one that is installed came from that distribution."""
        entry = self._estimators.get(name)
        return _read(entry) if entry and entry.distribution == (distribution or BUILT_IN) else Source()


def class_node(entry: Entry) -> ast.ClassDef | None:
    """The class of a component as it stands in its source file; None if that is not to be had."""
    tree, name = source_tree(entry), entry.target.partition(":")[2]
    return next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None) if tree else None


def source_tree(entry: Entry) -> ast.Module | None:
    """The source file of a component, parsed without importing it; None if that is not to be had."""
    try:
        file = _source_file(entry.target.partition(":")[0])
        return ast.parse(file.read_text(encoding="utf-8")) if file else None
    except (ImportError, OSError, SyntaxError, ValueError):
        return None


def _entries(components: Registry) -> dict[str, Entry]:
    try:
        return components.entries()
    except InputError:
        return {}


@cache
def _read(entry: Entry) -> Source:
    tree, node = source_tree(entry), class_node(entry)
    if tree is None or node is None:
        return Source()
    module, text = ast.get_docstring(tree) or "", ast.get_docstring(node) or ""
    exposes = _EXPOSES.search(text)
    parameters = list(_parameters(tree))
    return Source(
        about=module.partition("\n")[0],
        exposes=" ".join(exposes[1].split()) if exposes else "",
        citations=tuple(dict.fromkeys(_ARXIV.findall(f"{module}\n{text}"))),
        truth=next((_TRUTHS[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in _TRUTHS), ""),
        regular=not any(_is_false(statement, "regular") for statement in node.body),
        interest=tuple(name for name, kind in parameters if kind == "interest" and name),
        nuisances=tuple(name for name, kind in parameters if kind == "nuisance" and name),
        counted=("", "nuisance") not in parameters,
    )


def _parameters(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, kind) of every parameter that is written out; the name is empty where an option makes it."""
    for node in _calls(tree, "Parameter"):
        given = dict(zip(("name", "kind"), node.args, strict=False)) | {word.arg or "": word.value for word in node.keywords}
        yield _text(given.get("name")), _text(given.get("kind"))


def _calls(tree: ast.Module, function: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
            yield node


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_false(statement: ast.stmt, name: str) -> bool:
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Constant):
        return False
    return statement.value.value is False and any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)


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
