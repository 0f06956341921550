"""A page of many records: its work grows as they do, it reads no more curves than it shows, and it stays small."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from touchneedle.reports import page, page_runs
from touchneedle.reports.page import MAX_BYTES, render_page
from touchneedle.reports.rows import Results, Run, tidy_rows
from touchneedle.reports.sections import Section, build_sections
from touchneedle.reports.thinning import RUN_BYTES, STEPS, steps


def sections_of(make: Any, *size: int) -> list[Section]:
    runs = [Run(Path(f"{record.run_id}.json"), record) for record in make.many_records(*size)]
    return build_sections(Results(tidy_rows(runs), [run for run in runs if run.record.status == "failed"]))


def rendered(sections: list[Section]) -> str:
    return render_page(sections, [], [[[] for _ in section.tables] for section in sections])


def calls_of(sections: list[Section]) -> int:
    """Calls of Python functions while the page is made."""
    count = 0

    def counted(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        rendered(sections)
    finally:
        sys.setprofile(before)
    return count


def test_work_grows_as_the_records_do(make: Any) -> None:
    rendered(sections_of(make, 1, 2, 1))
    one, four = calls_of(sections_of(make, 2, 10, 5)), calls_of(sections_of(make, 4, 20, 5))
    assert four < 4.4 * one


def test_a_campaign_too_large_for_its_runs_reads_no_curves(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sections, read = sections_of(make, 2, 10, 5), []
    monkeypatch.setattr(page_runs, "loss_picture", lambda path: read.append(path) or "")
    assert "run-toy_0-1-net_0-0-10000-0" in rendered(sections)
    assert len(read) == 100
    read.clear()
    monkeypatch.setattr(page, "MAX_BYTES", 98 * RUN_BYTES)
    text = rendered(sections)
    assert 'id="run-toy_0-1-net_0-0-10000-0"' not in text
    assert len(set(read)) == text.count('class="run"') == 2
    assert "Details, seeds" in text


def test_steps_leave_out_more_and_more() -> None:
    assert [step.note for step in steps([], 1)] == [step.note for step in STEPS]
    assert len({step.note for step in STEPS}) == len(STEPS)
    assert [step.runs for step in STEPS] == sorted((step.runs for step in STEPS), reverse=True)


@pytest.mark.slow
def test_five_thousand_records_make_a_page_of_bounded_size(make: Any) -> None:
    text = rendered(sections_of(make, 20, 50, 5))
    assert text.count('class="run"') == 100
    assert len(text.encode()) < MAX_BYTES
