"""The table of planted defects in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from touchneedle.benchmark.verdicts import AUDIT, Verdict, write_verdicts
from touchneedle.reports.audit import audit_lines, audit_metrics
from touchneedle.reports.leaderboard import write_report


def verdict(case: str, seed: int = 0, *, fails: bool = False, sound: bool = False, **significance: float) -> Verdict:
    states = {"gate_closure": "fail" if fails else "pass", "gate_bias": "n/a"}
    named = {f"closure/{name}": value for name, value in significance.items()}
    return Verdict(
        case=case, about=f"about <{case}>", toy="mass_bump", seed=seed, sound=sound, states=states, decided_by={}, significance=named
    )


VERDICTS = [
    verdict("leak", 0, fails=True, mean_ratio=37.5, integral=-3.0),
    verdict("leak", 1, fails=False, mean_ratio=1.0, integral=-2.0),
    verdict("leak", 2, fails=True, mean_ratio=4.5, integral=-8.0),
    verdict("exact", 0, sound=True, integral=0.3),
]


def test_cases_are_gathered_over_seeds_and_sound_ones_come_first() -> None:
    assert audit_metrics(VERDICTS) == ["closure/mean_ratio", "closure/integral"]
    exact, leak = audit_lines(VERDICTS)
    assert (exact.sound, exact.seeds, exact.gates) == (True, 1, "none")
    assert [cell.text for cell in exact.cells] == ["n/a", "0.3"]
    assert (leak.sound, leak.seeds, leak.gates) == (False, 3, "closure 2/3")
    assert [(cell.text, cell.flagged) for cell in leak.cells] == [("4.5", True), ("\N{EN DASH}", False)]


def test_a_number_at_the_end_of_double_precision_is_a_limit() -> None:
    (line,) = audit_lines([verdict("leak", mean_ratio=36.97, integral=35.2)])
    assert [cell.text for cell in line.cells] == ["> 36", "35.2"]


def test_page_and_markdown_show_the_audit(demo: Path, tmp_path: Path) -> None:
    results = demo
    before = write_report(results, tmp_path / "plain").paths[0].read_text()
    assert 'id="audit"' not in before
    write_verdicts(results, VERDICTS)
    page, markdown, _ = (path.read_text() for path in write_report(results, tmp_path / "out").paths[:3])
    assert 'href="#audit"' in page
    for text in (page, markdown):
        assert "Audit of the scores" in text
        assert "false alarms: 0 of 1 gates" in text
        assert "missed: leak (seed 1)" in text
        assert "about &lt;leak&gt;" in text
        assert "about <leak>" not in text
    assert '<td class="number flagged">4.5</td>' in page
    assert "| **4.5** |" in markdown


@pytest.mark.parametrize("content", ["", "{", '[{"case": 1}]'])
def test_a_corrupt_audit_is_a_problem_and_the_rest_is_reported(demo: Path, tmp_path: Path, content: str) -> None:
    results = demo
    (results / AUDIT).parent.mkdir()
    (results / AUDIT).write_text(content)
    report = write_report(results, tmp_path / "out")
    assert [problem.partition(":")[0] for problem in report.problems] == ["audit/verdicts.json"]
    assert "run touchneedle audit again" in report.paths[0].read_text()
