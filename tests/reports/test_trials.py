"""Trials of a search, told in a line each: by ``touchneedle show`` and on the page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from touchneedle.benchmark.records import Metric, Trial
from touchneedle.reports.page import render_page
from touchneedle.reports.rows import Results, Run, tidy_rows
from touchneedle.reports.sections import build_sections
from touchneedle.reports.show import show_run
from touchneedle.reports.trials import trial_text

CLOSURE = Metric(family="closure", name="mean_ratio", at={"where": "validation", "z": 0.5}, value=1.01, stderr=0.02)
MISSING = Metric(family="calibration", name="ece", at={"where": "validation", "reason": "log_ratio is NaN"}, value=None)


def trial(loss: float | None, *monitors: Metric, **changes: Any) -> Trial:
    return Trial(
        **{"options": {"a.b": 2}, "fit_id": "f", "validation_loss": loss, "seconds": 1.0, "chosen": False} | changes, monitors=monitors
    )


def test_a_trial_is_told_in_one_line() -> None:
    assert trial_text(trial(0.5123456)) == '{"a.b":2}: loss 0.512346'
    assert trial_text(trial(None)) == '{"a.b":2}: loss not finite'
    told = trial_text(trial(0.5123456, CLOSURE, MISSING, feasible=False, chosen=True, options={}))
    assert told == "{}: loss 0.512346, mean_ratio 1.01 ± 0.02, ece n/a (log_ratio is NaN), not feasible, chosen"


def test_trials_are_shown_in_the_terminal_and_on_the_page(make: Any, results: Callable[..., Path]) -> None:
    record = make.record(track="tuned", trials=[trial(0.6, CLOSURE), trial(0.5, CLOSURE, chosen=True)])
    folder = results(record)
    told = [trial_text(one) for one in record.trials]
    (block,) = [block for block in show_run(folder, record.run_id) if block.title == "run"]
    assert [value for what, value in block.rows if what == "trial"] == told
    run = Run(folder / f"{record.run_id}.json", record)
    sections = build_sections(Results(tidy_rows([run]), []))
    page = render_page(sections, [], [[[] for _ in section.tables] for section in sections])
    assert all(text.split(": ", 1)[1] in page for text in told)
