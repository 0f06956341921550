"""Records that mean harm, or are merely odd: everything is shown as it is, nothing is executed, nothing breaks the page."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from touchneedle.benchmark.export_rows import Export, write_exports
from touchneedle.benchmark.records import Null
from touchneedle.benchmark.verdicts import Verdict, write_verdicts
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.page_compare import script_json

HOSTILE = '<script>alert("1")</script>|`x`[y](javascript:z)\n{{ 7*7 }}$\\frac$<!-- --> é\U0001f642'
EVIL = (
    '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">"><svg onload=window.hacked=1>'
    "' onmouseover=window.hacked=1 autofocus onfocus=window.hacked=1 x='</style><style>*{display:none}</style><!-- <script>"
    '</textarea></title></noscript><base href="http://example.invalid/"><link rel=stylesheet href="http://example.invalid/x.css">'
    "${window.hacked=1} {{ 7*7 }} {% raw %} javascript:window.hacked=1 &lt;&#60;&quot; \\u003c \u2028\u2029\u202e \\ é漢字\U0001f642"
)
LONG = "W" * 3_000


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


def test_data_in_a_script_element_cannot_end_it() -> None:
    text = script_json({EVIL: [EVIL, LONG]})
    assert not set(text) & {"<", ">", "&", "\u2028", "\u2029"}
    assert json.loads(text) == {EVIL: [EVIL, LONG]}


def evil_results(make: Any, folder: Path, text: str) -> Path:
    """Records of every status whose every text is ``text``, and an audit, exports and an unreadable file of the same kind."""
    at = {"feature": text, "parameter": text, text: text, "point": 0, "n_events": 100}
    odd = [
        make.metric("fit/bias_vs_oracle", math.inf, None, **at),
        make.metric("fit/coverage_68", -math.inf, math.inf, **at),
        make.metric("fit/width_vs_oracle", math.nan, math.nan, **at),
        make.metric("density/kl", 0.1, 0.0, null=Null(value=math.inf)),
        make.metric("density/log_ratio_rmse", None, reason=text),
        make.metric(f"gates/gate_{text}", 1.0, 0.1, state=text, decided_by=text),
        make.metric(f"{text.replace('/', '')}/{text}", 1e300, 1e-300, **at),
    ]
    shared = {
        "toy": text,
        "version": text,
        "params": {text: text},
        "design": text,
        "seeds": {text: 1},
        "cost": {text: text, "train_seconds": math.inf},
        "environment": {text: [text]},
    }
    for seed in range(3):
        make.write(folder, make.record(text, seed, odd, run_id=f"good-{seed}", **shared))
    make.write(
        folder,
        make.record(f"{text}2", 0, [], run_id="<img src=x onerror=window.hacked=1>\"'", **shared),
        make.record(text, 3, [], run_id="bad", status="failed", reason=text, traceback=f"{text}\n{LONG}", **shared),
        make.record(text, 4, [], run_id="none", status="failed", **shared | {"cost": {}, "environment": {}, "config": {}}),
        make.record(text, 5, [], run_id="left", status="skipped", reason=text, **shared),
    )
    (folder / "<svg onload=window.hacked=1>.json").write_text(text)
    write_exports(folder, [Export(estimator=text, toy=text, format="onnx", size=0, seconds=1.0, reason=text)])
    gates = {text: "fail", "gate_bias": "pass"}
    verdict = Verdict(case=text, about=text, toy=text, seed=0, sound=False, states=gates, decided_by={text: text}, significance={text: 3.0})
    write_verdicts(folder, [verdict])
    return folder


@pytest.fixture(scope="module", params=[EVIL, LONG, "", " ", "a\tb\n\nc"], ids=["markup", "long", "empty", "blank", "lines"])
def page(make: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("evil")
    return request.param, write_report(evil_results(make, folder / "in", request.param), folder / "out").paths[0]


@pytest.fixture
def shown(browser: Any, page: tuple[str, Path]) -> Iterator[Any]:
    opened = browser.open(page[1], "#compare?e=%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D1%3E&number=all", width=390)
    opened.run("document.querySelectorAll('details').forEach((block) => { block.open = true; })")
    yield opened
    opened.close()


def test_a_browser_shows_hostile_records_and_runs_nothing(shown: Any, page: tuple[str, Path]) -> None:
    text, _ = page
    assert shown.complaints() == []
    assert shown.requests() == []
    assert shown.run("typeof window.hacked") == "undefined"
    assert shown.run("document.querySelectorAll('script, style, link, base, img, iframe').length") == 3
    assert shown.run("document.querySelectorAll('main img, main svg:not(.loss, .picture svg)').length") == 0
    assert (
        shown.run("Array.from(document.querySelectorAll('*'), (e) => e.getAttributeNames()).flat().filter((n) => n.startsWith('on'))") == []
    )
    for heading in ("Where to look", "Toys", "Estimators", "Compare", "Definitions"):
        assert shown.run(f"Array.from(document.querySelectorAll('h2')).some((h) => h.checkVisibility() && h.textContent === '{heading}')")
    names = shown.run("Array.from(document.querySelectorAll('#estimators details h3'), (heading) => heading.textContent)")
    assert text in names
    assert text in shown.run("Array.from(document.querySelectorAll('.run p'), (each) => each.textContent)") or not text


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_records_do_not_widen_the_page(shown: Any, width: int) -> None:
    shown.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    shown.settle()
    assert shown.run("document.documentElement.scrollWidth") <= width


def test_hostile_names_can_be_chosen_and_kept_in_the_address(shown: Any) -> None:
    boxes = "document.querySelectorAll('#compare-form input')"
    shown.run(f"{boxes}[0].click()")
    name = shown.run(f"{boxes}[0].value")
    place = shown.run("location.hash")
    shown.run("location.hash = '#guide'")
    shown.settle()
    shown.run(f"location.hash = {json.dumps(place)}")
    shown.settle()
    assert shown.run(f"Array.from({boxes}).filter((box) => box.checked).map((box) => box.value)") == [name]
    rows = shown.run("Array.from(document.querySelectorAll('#compare-table tbody th'), (cell) => cell.textContent)")
    assert rows
    assert set(rows) == {name}
    assert shown.run("typeof window.hacked") == "undefined"
    assert shown.complaints() == []
