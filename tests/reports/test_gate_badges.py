"""Badges of the gates, over seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from touchneedle.benchmark.records import Metric
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.rows import read_results
from touchneedle.reports.text_tables import gate_states, gate_text


def gate(name: str, state: str) -> Metric:
    return Metric(family="gates", name=f"gate_{name}", value=0.1, stderr=0.01, at={"state": state, "decided_by": f"fit/{name} point=1"})


@pytest.mark.parametrize(
    ("states", "expected"),
    [(("pass", "pass"), "pass"), (("pass", "undecided"), "undecided"), (("undecided", "fail"), "fail"), (("fail", "fail"), "fail")],
)
def test_a_gate_passes_if_all_seeds_pass_and_fails_if_one_fails(
    make: Any, results: Callable[..., Path], states: tuple[str, str], expected: str
) -> None:
    records = [make.record(seed=seed, metrics=[gate("bias", state)]) for seed, state in enumerate(states)]
    (row,) = read_results(results(*records)).rows
    assert gate_states(row) == {"bias": expected}
    (cell,) = (cell for cell in row.cells if cell.family == "gates")
    assert f"{states[0]} by fit/bias point=1" in cell.reason


def test_badges_stand_in_all_three_files(make: Any, results: Callable[..., Path], tmp_path: Path) -> None:
    missing = Metric(family="gates", name="gate_samples", value=None, at={"reason": "no sampler"})
    metrics = [gate("bias", "pass"), gate("coverage", "undecided"), gate("closure", "fail"), missing]
    folder = results(make.record(metrics=metrics))
    page, markdown, table = (path.read_text() for path in write_report(folder, tmp_path / "out").paths[:3])
    assert '<span class="gate pass">bias</span>' in page
    assert '<span class="gate fail">closure</span>' in page
    assert ">samples</span>" not in page
    assert "| 1 pass; fail: closure; undecided: coverage |" in markdown
    assert ",fail," in table
    (row,) = read_results(folder).rows
    assert gate_text(row) == "1 pass; fail: closure; undecided: coverage"


def test_a_row_without_gates_says_so(make: Any, results: Callable[..., Path]) -> None:
    (row,) = read_results(results(make.record())).rows
    assert gate_text(row) == "n/a"
