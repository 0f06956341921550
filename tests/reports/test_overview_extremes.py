"""The overview of records that nobody would wish for: it is made, its JSON is JSON, and nothing of it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from touchneedle.reports.leaderboard import write_report

VALUES = [math.inf, -math.inf, math.nan, None, 0.0, -1.0, 5e-324, 1e-310, 1.7e308, 1.0]
HOSTILE = "</script><script>alert(1)</script> | `x` [y](z) \u2028 " + "long" * 60


def extreme(make: Any, value: float | None) -> list[Any]:
    error = None if value is None else abs(value)
    here = {"parameter": make.poi, "point": 0}
    fits = [make.metric(f"fit/{name}", value, error, n_events=100, **here) for name in ("bias_vs_oracle", "width_vs_oracle")]
    density = [make.metric(f"density/{name}", value, error) for name in ("kl", "log_ratio_rmse", HOSTILE)]
    return [make.metric("fit/n_star", value, error, **here), *fits, *density]


@pytest.mark.parametrize("value", VALUES)
def test_extreme_numbers_make_a_report(make: Any, tmp_path: Path, value: float | None) -> None:
    for folder, other in (("new", value), ("old", 1.0)):
        for toy in ("a", "b", "c"):
            for n in (100, 1000):
                for name, number in (("one", other), ("two", 1.0), (HOSTILE, other)):
                    run = make.record(name, 0, extreme(make, number), toy=toy, n_train=n, run_id=f"{toy}-{n}-{name[:3].strip('</')}")
                    make.write(tmp_path / folder, run)
    assert write_report(tmp_path / "new", tmp_path / "out", tmp_path / "old").problems == []
    summary = (tmp_path / "out" / "summary.json").read_text()
    boards = json.loads(summary, parse_constant=lambda name: pytest.fail(f"bare {name}"))["boards"]
    assert all(len(family["ranks"]) == 3 for board in boards for family in board["families"] if family["family"] == "cost")
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "<script>alert" not in page


def test_everything_failed(make: Any, tmp_path: Path) -> None:
    lost = {"status": "failed", "metrics": [], "reason": "diverged"}
    runs = [make.record(name, toy=toy, **lost) for name in ("one", "two") for toy in ("a", "b", "c")]
    write_report(make.write(tmp_path / "results", *runs), tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (board,) = summary["boards"]
    assert [(one["runs"], one["failed"]) for one in board["contestants"]] == [(3, 3), (3, 3)]
    assert board["families"] == []
