"""The table of exports in the report."""

from __future__ import annotations

from pathlib import Path

from touchneedle.benchmark.export_rows import EXPORTS, Export, write_exports
from touchneedle.reports.exports import export_formats, export_lines
from touchneedle.reports.leaderboard import write_report

ROWS = [
    Export(estimator="zuko_cnf", toy="mass_bump", format="pt2", size=0, seconds=2.0, reason="Failed: <steps>"),
    Export(estimator="ratio_bce", toy="mass_bump", format="onnx", size=1_000, seconds=2.0),
    Export(estimator="ratio_bce", toy="mass_bump", format="pt2", size=471_443, seconds=2.0),
]


def test_estimators_are_lines_and_formats_columns() -> None:
    assert export_formats(ROWS) == ["pt2", "onnx"]
    ratio, flow = export_lines(ROWS)
    assert (ratio.estimator, [(cell.text, cell.exports) for cell in ratio.cells]) == ("ratio_bce", [("471 kB", True), ("1 kB", True)])
    assert [(cell.text, cell.exports) for cell in flow.cells] == [("no: Failed: <steps>", False), ("not tried", False)]


def test_page_and_markdown_show_the_exports(demo: Path, tmp_path: Path) -> None:
    assert 'id="exports"' not in write_report(demo, tmp_path / "plain").paths[0].read_text()
    write_exports(demo, ROWS)
    page, markdown, _ = (path.read_text() for path in write_report(demo, tmp_path / "out").paths[:3])
    assert 'href="#exports"' in page
    for text in (page, markdown):
        assert "471 kB" in text
        assert "no: Failed: &lt;steps&gt;" in text


def test_a_corrupt_survey_is_a_problem_and_the_rest_is_reported(demo: Path, tmp_path: Path) -> None:
    (demo / EXPORTS).parent.mkdir()
    (demo / EXPORTS).write_text("[{}]")
    report = write_report(demo, tmp_path / "out")
    assert [problem.partition(":")[0] for problem in report.problems] == ["exports/survey.json"]
