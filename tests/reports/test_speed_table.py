"""The table of speeds in the report, in the README, and in the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from touchneedle.conf.errors import InputError
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.speed_headline import reference_speeds, speed_markdown, with_speeds
from touchneedle.reports.speed_rows import SPEED, Speed, read_speeds
from touchneedle.reports.speeds import speed_lines, speed_summary, speed_topics

MACHINE = {"device": "CPU <X>", "threads": 1, "torch": "2.13.0"}
ROWS = [
    Speed("training", "spline_flow, <eager>", 1.87, 0.04, "zuko_nsf", 2.0, note="the floor is | Adam", machine=MACHINE),
    Speed("start", "help", 0.31, 0.02, "import torch", 1.0, better="lower", machine=MACHINE),
    Speed("training", "spline_flow, compiled", 3.61, 0.1, "zuko_nsf", 2.0, machine=MACHINE),
    Speed("training", "a step", 12.0, None, unit="ms", machine=MACHINE),
]
HOSTILE = "<script>alert(1)</script> | `x`"


def write(folder: Path, rows: list[Speed], name: str = "cpu") -> Path:
    path = folder / SPEED / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows]))
    return path


def test_lines_stand_by_topic_with_targets_first() -> None:
    topics = speed_topics(ROWS)
    assert list(topics) == ["start", "training"]
    assert [line.what for line in topics["training"]] == ["spline_flow, <eager>", "spline_flow, compiled", "a step"]
    eager, compiled, step = topics["training"]
    assert eager.cells == (
        *("training", "spline_flow, <eager>", "zuko_nsf", "1.87 ± 0.04 times", "≥ 2 times", "missed"),
        "CPU <X>; threads 1; torch 2.13.0",
    )
    assert (compiled.verdict, compiled.measured) == ("met", "3.61 ± 0.10 times")
    assert (step.verdict, step.wanted, step.measured) == ("", "", "12 ms")
    assert (topics["start"][0].wanted, topics["start"][0].verdict) == ("≤ 1 times", "met")
    assert speed_summary(ROWS) == "2 of 3 targets are met."


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_speeds(write(tmp_path, ROWS)) == ROWS


def test_page_and_markdown_show_the_speeds(demo: Path, tmp_path: Path) -> None:
    assert 'id="speed"' not in write_report(demo, tmp_path / "plain").paths[0].read_text()
    before = (tmp_path / "plain" / "summary.json").read_text(), (tmp_path / "plain" / "leaderboard.csv").read_text()
    write(demo, ROWS)
    write(demo, [Speed("training", "on a GPU", 9.0, 1.0, machine={"device": HOSTILE})], "gpu")
    page, markdown, table, _, summary = (path.read_bytes() for path in write_report(demo, tmp_path / "out").paths)
    assert (summary.decode(), table.decode()) == before, "speeds are no part of the ranking"
    assert b'href="#speed"' in page
    for text in (page.decode(), markdown.decode()):
        assert "1.87 ± 0.04 times" in text
        assert "2 of 3 targets are met." in text
        assert "on a GPU" in text
        assert "<script>alert" not in text
        assert "&lt;eager&gt;" in text
    assert r"the floor is \| Adam" in markdown.decode()


BROKEN = [{"value": None}, {"value": float("nan")}, {"standard_error": -1.0}, {"more": 1}]


@pytest.mark.parametrize("text", ["[{}]", "{", "[]x", *(json.dumps([asdict(ROWS[0]) | changed]) for changed in BROKEN)])
def test_a_corrupt_table_is_a_problem_and_the_rest_is_reported(demo: Path, tmp_path: Path, text: str) -> None:
    write(demo, ROWS, "gpu")
    (demo / SPEED / "cpu.json").write_text(text)
    report = write_report(demo, tmp_path / "out")
    (problem,) = report.problems
    assert problem.startswith("speed/cpu.json: ")
    assert "make bench" in problem
    assert "\n" not in problem
    assert "1.87 ± 0.04 times" in report.paths[0].read_text()


@pytest.mark.parametrize("changed", [{"value": float("nan")}, {"standard_error": -0.1}, {"better": "best"}, {"wanted": float("inf")}])
def test_what_is_no_number_is_refused_where_it_is_measured(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        Speed(**(asdict(ROWS[0]) | changed))


def test_the_readme_holds_the_targets_alone() -> None:
    text = speed_markdown(ROWS)
    shown = [line.strip("| ").split(" | ")[1] for line in text.splitlines()[2:5]]
    assert shown == ["help", "spline_flow, &lt;eager&gt;", "spline_flow, compiled"]
    assert "a step" not in text
    assert "2 of 3 targets are met. Measured on: CPU &lt;X&gt;; threads 1; torch 2.13.0." in text
    assert speed_markdown([]) == "Nothing has been measured yet.\n"
    readme = "# T\n<!-- speeds: here -->\nold\n<!-- /speeds -->\nend\n"
    assert with_speeds(with_speeds(readme, ROWS[:1]), ROWS) == with_speeds(readme, ROWS)
    assert with_speeds(readme, ROWS).endswith("<!-- /speeds -->\nend\n")


def test_the_readme_is_about_a_cpu(tmp_path: Path) -> None:
    assert reference_speeds(tmp_path) == []
    write(tmp_path, ROWS[:1], "gpu")
    write(tmp_path, ROWS[1:])
    assert reference_speeds(tmp_path) == ROWS[1:]


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make bench") as caught:
        read_speeds(tmp_path / "nothing.json")
    assert "\n" not in str(caught.value)


def test_the_terminal_shows_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.performance.table import main

    main(write(tmp_path, ROWS))
    *lines, summary = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[line.topic, line.what] for line in speed_lines(ROWS)]
    assert lines[1].split("\t")[2:] == ["zuko_nsf", "1.87 ± 0.04 times", "≥ 2 times", "missed"]
    assert summary == "2 of 3 targets are met."


def test_a_table_that_is_not_there_or_broken_is_one_line(tmp_path: Path) -> None:
    from tests.performance.table import main

    with pytest.raises(SystemExit, match=r"gpu.json: expected measured speeds; got none: what needs a GPU \(make bench-gpu\) is skipped"):
        main(tmp_path / "gpu.json")
    (tmp_path / "cpu.json").write_text("[{")
    with pytest.raises(SystemExit, match=r"speeds .*cpu.json: expected a table of measured speeds"):
        main(tmp_path / "cpu.json")
