"""What every metric is, read from the sources of the metrics without importing them (and torch with them)."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

METRICS = Path(__file__).parent / "metrics"


@cache
def metric_definitions() -> dict[str, str]:
    """``family/name`` -> what it is, for every metric outside the gates, by name."""
    calls = [node for file in METRICS.glob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return dict(sorted(_definition(node) for node in calls if isinstance(node, ast.Call) and _is_metric(node)))


def _is_metric(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "MetricInfo"


def _definition(node: ast.Call) -> tuple[str, str]:
    family, name, about = (ast.literal_eval(argument) for argument in node.args[:3])
    return f"{family}/{name}", str(about)
