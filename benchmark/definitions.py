"""What every metric and gate is, read from their sources without importing them (and torch with them)."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

METRICS = Path(__file__).parent / "metrics"
GATES = Path(__file__).parent / "gates.py"


@cache
def metric_definitions() -> dict[str, str]:
    """``family/name`` -> what it is, for every metric outside the gates, by name."""
    found = (_words(call, 3) for call in _calls("MetricInfo", METRICS.glob("*.py")))
    return dict(sorted((f"{family}/{name}", about) for family, name, about in found))


@cache
def gate_definitions() -> dict[str, str]:
    """``gates/name`` -> what it is, for every gate."""
    return {f"gates/{name}": about for name, about in (_words(call, 2) for call in _calls("Gate", [GATES]))}


def _calls(function: str, files: Iterable[Path]) -> Iterator[ast.Call]:
    """Calls of a function in the assignments of modules."""
    texts = (text for file in files if f"{function}(" in (text := file.read_text(encoding="utf-8")))
    assigned = (statement for text in texts for statement in ast.parse(text).body if isinstance(statement, ast.Assign))
    nodes = (node for statement in assigned for node in ast.walk(statement))
    return (node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function)


def _words(call: ast.Call, n: int) -> tuple[str, ...]:
    return tuple(str(ast.literal_eval(argument)) for argument in call.args[:n])
