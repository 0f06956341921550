"""Records that mean harm: everything is shown, nothing is executed, nothing breaks."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from touchneedle.reports.leaderboard import write_report

HOSTILE = '<script>alert("1")</script>|`x`[y](javascript:z)\n{{ 7*7 }}$\\frac$<!-- --> é\U0001f642'


def test_hostile_texts_are_shown_and_not_executed(make: Any, tmp_path: Path) -> None:
    metrics = [make.metric("density/kl", 0.1, 0.01), make.metric(f"density/{HOSTILE}", 1.0, 0.1, feature=HOSTILE)]
    metrics += [make.metric("fit/n_star", None, parameter=HOSTILE, point=0, reason=HOSTILE)]
    good = make.record(
        HOSTILE, metrics=metrics, run_id="good", toy=HOSTILE, version=HOSTILE, params={HOSTILE: HOSTILE}, environment={HOSTILE: HOSTILE}
    )
    bad = make.record(HOSTILE, toy=HOSTILE, version=HOSTILE, run_id="bad", status="failed", reason=HOSTILE, traceback=HOSTILE)
    folder = make.write(tmp_path / "results", good, bad)
    make.write_curves(folder, "good")
    write_report(folder, tmp_path / "out")
    text = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert text.lower().count("<script") == 2
    assert "&lt;script&gt;" in text
    assert "{{ 7*7 }}" in text
    assert "<!-- -->" not in text
    markdown = (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)[`\[\]]|<(?!$)", markdown)
    lines = csv.DictReader(io.StringIO((tmp_path / "out" / "leaderboard.csv").read_text(encoding="utf-8")))
    assert next(lines)["toy"] == HOSTILE
