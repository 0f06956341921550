"""The page in a real browser: it opens from disk in silence, sorts, filters, compares, and an address restores what was seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from touchneedle.benchmark.export_rows import Export, write_exports
from touchneedle.benchmark.records import write_atomically
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.numbers import format_number
from touchneedle.reports.speed_rows import SPEED, Speed

Open = Callable[..., Any]
TOYS = ("mass_bump", "signed_mixture")
SEEDS = {"a_net": 5, "b_net": 4, "c_net": 2, "oracle": 1}
TRACE = 'Traceback (most recent call last):\n  File "train.py", line 3\nFloatingPointError: loss is not finite'

# Rows of the comparison as texts, each cell without its small print.
ROWS = """Array.from(document.querySelectorAll("#compare-table tbody tr"), (row) => Array.from(row.cells, (cell) => cell.firstChild
  ? cell.firstChild.textContent : ""))"""
ORDER = """Array.from(document.querySelectorAll("table[data-place='ranking-mass_bump-1'] tbody th"), (cell) => cell.dataset.sort.trim())"""


def kl_of(toy: str, name: str, seed: int) -> float:
    if name == "oracle":
        return 1e-4
    numbers = np.random.default_rng([TOYS.index(toy), sum(map(ord, name)), seed])
    return float(0.05 * (1 + ord(name[0]) - ord("a")) + 0.01 * numbers.standard_normal() + 0.02 * seed)


@pytest.fixture(scope="module")
def page(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two toys, three estimators with 5, 4 and 2 seeds, the exact answer, a failure, a skip, exports, speeds."""
    folder = tmp_path_factory.mktemp("results")
    for toy in TOYS:
        for name, seeds in SEEDS.items():
            runs = [(seed, [make.metric("density/kl", kl_of(toy, name, seed), 0.003)]) for seed in range(seeds)]
            fits = [] if name == "c_net" else make.fit_metrics(1e6 if name == "oracle" else 300.0, 0.2)
            make.write(folder, *(make.record(name, seed, [*metrics, *fits], toy=toy) for seed, metrics in runs))
    make.write(folder, make.record("b_net", 9, [], status="failed", reason="loss is not finite", traceback=TRACE))
    make.write(folder, make.record("b_net", 8, [], status="failed", reason="loss is not finite", traceback=TRACE))
    make.write(folder, make.record("c_net", 9, [], status="skipped", reason="c_net cannot use design templates"))
    make.write_curves(folder, "mass_bump-1-a_net-0-10000-0", 0.1)
    write_exports(folder, [Export(estimator="a_net", toy="mass_bump", format="onnx", size=9_000, seconds=1.0)])
    speeds = [Speed("training", what, 2.0, 0.1, "zuko_nsf", wanted, note="floor " * 40) for what, wanted in (("one", 1.5), ("two", 3.0))]
    write_atomically(folder / SPEED / "cpu.json", json.dumps([asdict(row) for row in speeds]))
    return write_report(folder, folder / "out").paths[0]


@pytest.fixture
def visit(browser: Any, page: Path) -> Iterator[Open]:
    """Opens the page at a place, and closes it again."""
    opened = []

    def visit(place: str = "", **shape: Any) -> Any:
        opened.append(browser.open(page, place, **shape))
        return opened[-1]

    yield visit
    for each in opened:
        each.close()


def choose(shown: Any, **filters: str) -> None:
    """Set filters of the comparison as a reader does."""
    for name, value in filters.items():
        shown.run(
            f'(() => {{ const s = document.getElementById("compare-form").elements.namedItem("{name}"); s.value = {value!r};'
            ' s.dispatchEvent(new Event("change", { bubbles: true })); })()'
        )


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_opens_from_disk_in_silence_and_fits_the_screen(visit: Open, width: int, scheme: str) -> None:
    shown = visit(width=width, scheme=scheme)
    assert shown.requests() == []
    assert shown.complaints() == []
    assert shown.run("document.title") == "Touchneedle leaderboard"
    assert shown.run("document.documentElement.scrollWidth") <= width
    shown.run("document.querySelectorAll('details').forEach((block) => { block.open = true; })")
    assert shown.run("document.documentElement.scrollWidth") <= width
    assert shown.run("document.getElementById('compare-form').checkVisibility()")


def test_policy_keeps_other_scripts_out(visit: Open) -> None:
    shown = visit()
    shown.run("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.foreign = 1' }))")
    assert shown.run("typeof window.foreign") == "undefined"
    assert any("Content Security Policy" in str(found) for found in shown.complaints())


def test_tables_sort_by_mouse_and_keyboard_and_the_address_remembers(visit: Open) -> None:
    shown = visit()
    assert shown.run(ORDER)[0] == "oracle"
    heading = "document.querySelector(\"table[data-place='ranking-mass_bump-1'] th[data-key='{}']\")"
    shown.run(heading.format("estimator") + ".querySelector('button').click()")
    assert shown.run(ORDER) == ["a_net", "b_net", "c_net", "oracle"]
    shown.run(heading.format("n_star") + ".querySelector('button').focus()")
    shown.press("Enter")
    assert shown.run(heading.format("n_star") + ".getAttribute('aria-sort')") == "ascending"
    assert shown.run(heading.format("estimator") + ".getAttribute('aria-sort')") is None
    # Equal numbers keep their order, and the one without a number is last in both directions.
    assert shown.run(ORDER) == ["a_net", "b_net", "oracle", "c_net"]
    shown.press("Enter")
    assert shown.run(ORDER) == ["oracle", "a_net", "b_net", "c_net"]
    assert "descending" in shown.run("document.getElementById('status').textContent")
    place = shown.run("location.hash")
    assert place == "#ranking-mass_bump-1?sort=n_star.descending"
    again = visit(place)
    assert again.run(ORDER) == ["oracle", "a_net", "b_net", "c_net"]
    assert again.run(heading.format("n_star") + ".getAttribute('aria-sort')") == "descending"


def test_a_failed_run_shows_its_traceback_one_click_from_its_toy(visit: Open) -> None:
    shown = visit("#toy-mass_bump")
    assert not shown.run("document.querySelector('.traceback').checkVisibility()")
    shown.run("document.querySelector('#toy-mass_bump tr.failed td a').click()")
    shown.settle()
    assert shown.run("location.hash") == "#run-mass_bump-1-b_net-0-10000-8"
    assert shown.run("document.querySelector(location.hash + ' .traceback').textContent") == TRACE
    assert shown.run("document.querySelector(location.hash + ' .traceback').checkVisibility()")
    top = shown.run("document.querySelector(location.hash).getBoundingClientRect().top")
    assert 0 <= top < 300


def test_an_address_leads_into_closed_blocks(visit: Open) -> None:
    shown = visit("#run-mass_bump-1-a_net-0-10000-0")
    assert shown.run("document.querySelector(location.hash + ' .command').checkVisibility()")
    assert "estimator=a_net" in shown.run("document.querySelector(location.hash + ' .command').textContent")
    assert shown.run("document.querySelector(location.hash + ' .loss').checkVisibility()")
    shown.run("document.querySelector(location.hash + ' a').click()")
    shown.settle()
    assert shown.run("document.querySelector(location.hash).open")


@pytest.mark.parametrize("toy", TOYS)
def test_differences_are_those_of_the_records(visit: Open, toy: str) -> None:
    shown = visit(f"#compare?number=kl&toy={toy}&against=b_net")
    rows = {row[0]: row for row in shown.run(ROWS)}
    assert sorted(rows) == ["a_net", "b_net", "c_net"]
    assert rows["b_net"][5] == "the same"
    paired = np.array([kl_of(toy, "a_net", seed) - kl_of(toy, "b_net", seed) for seed in range(4)])
    mean, error = float(paired.mean()), float(paired.std(ddof=1) / 2)
    assert rows["a_net"][4] == format_number(mean, error)
    assert rows["a_net"][7] == "4 paired seeds"
    needed = student.isf(norm.sf(2), 3)
    assert rows["a_net"][5] == ("better" if mean < -needed * error else "not told apart")
    means, errors = {}, {}
    for name in ("b_net", "c_net"):
        values = np.array([kl_of(toy, name, seed) for seed in range(SEEDS[name])])
        means[name], errors[name] = values.mean(), max(values.std(ddof=1) / math.sqrt(len(values)), 0.003 / math.sqrt(len(values)))
    apart, combined = float(means["c_net"] - means["b_net"]), math.hypot(*errors.values())
    assert rows["c_net"][4].lstrip("+") == format_number(apart, combined)
    assert rows["c_net"][7] == "both, combined"


def test_the_best_of_each_toy_is_ranked_and_limits_stay_limits(make: Any, browser: Any, tmp_path: Path) -> None:
    stars = {"a_net": (1e6, "above"), "b_net": (1e6, "above"), "c_net": (100.0, None), "oracle": (1e6, "above")}
    for name, (star, mark) in stars.items():
        make.write(
            tmp_path / "in", make.record(name, metrics=[*make.fit_metrics(star, 0.1, censored=mark), make.metric("density/kl", 0.1)])
        )
    make.write(tmp_path / "in", make.record("d_net", metrics=[make.metric("density/kl", math.inf)]))
    shown = browser.open(write_report(tmp_path / "in", tmp_path / "out").paths[0], "#compare?number=n_star")
    rows = {row[0]: row for row in shown.run(ROWS)}
    assert [rows["a_net"][5], rows["b_net"][5], rows["b_net"][7]] == ["the best", "not told apart", "both are limits"]
    assert (rows["c_net"][6], rows["c_net"][5], rows["c_net"][7]) == ("a_net", "worse", "a limit")
    assert rows["c_net"][4].startswith("\N{GREATER-THAN OR EQUAL TO} +9.2")
    shown.run("location.hash = '#compare?number=kl&e=d_net&e=a_net'")
    shown.settle()
    rows = {row[0]: row for row in shown.run(ROWS)}
    assert rows["d_net"][3:5] == ["\N{INFINITY}", "+\N{INFINITY}"]
    assert rows["d_net"][5] == "worse"
    shown.close()


def test_filters_and_sorting_of_the_comparison_stand_in_the_address(visit: Open) -> None:
    shown = visit("#compare")
    assert {row[0] for row in shown.run(ROWS)} == {"a_net", "b_net"}
    choose(shown, number="all", trait="signed weights")
    rows = shown.run(ROWS)
    assert {row[1] for row in rows} == {"signed_mixture"}
    assert len({row[2] for row in rows}) > 5
    choose(shown, number="kl")
    for name in ("a_net", "oracle"):
        shown.run(f"document.querySelector('#compare-form input[value={name}]').click()")
    assert {row[0] for row in shown.run(ROWS)} == {"a_net", "oracle"}
    shown.run("document.querySelector('#compare-table th[data-key=estimator] button').click()")
    shown.run("document.querySelector('#compare-table th[data-key=estimator] button').click()")
    seen = shown.run(ROWS)
    assert [row[0] for row in seen] == ["oracle", "a_net"]
    assert "2 numbers" in shown.run("document.getElementById('compare-summary').textContent")
    again = visit(shown.run("location.hash"))
    assert again.run(ROWS) == seen
    assert again.run("document.querySelector('#compare-form').elements.namedItem('trait').value") == "signed weights"
    assert again.run("document.querySelectorAll('#compare-form input:checked').length") == 2
    again.run("document.querySelector('#compare-form button[type=reset]').click()")
    again.settle()
    assert {row[1] for row in again.run(ROWS)} == set(TOYS)


def test_a_state_that_no_longer_fits_is_left_aside(visit: Open) -> None:
    shown = visit("#compare?toy=gone&number=gone&e=nobody&sort=gone.ascending")
    assert shown.complaints() == []
    assert {row[1] for row in shown.run(ROWS)} == set(TOYS)
    assert visit("#%E0%A4%A?x=%ZZ").complaints() == []


def test_every_question_is_answered_one_click_away(visit: Open) -> None:
    shown = visit()
    count = shown.run("document.querySelectorAll('#questions dd').length")
    assert count == 6
    for number in range(count):
        shown.run(f"document.querySelectorAll('#questions dd a')[{number}].click()")
        shown.settle()
        place = shown.run("location.hash").partition("?")[0]
        assert abs(shown.run(f"document.querySelector('{place}').getBoundingClientRect().top")) < 300
        assert shown.run(f"document.querySelectorAll('{place} tbody tr').length") > 0


def test_numbers_read_as_elsewhere(visit: Open) -> None:
    draws = np.random.default_rng(5)
    pairs: list[tuple[float, float | None]] = [
        (0.0, None),
        (3.0, None),
        (12345.678, None),
        (-0.0004, 0.01),
        (1e-9, 3e-10),
        (2.5e8, 1e7),
        (7.0, 0.0),
    ]
    for power in range(-7, 9):
        value, error = float(draws.normal() * 10.0**power), float(draws.uniform(0.001, 1.0) * 10.0**power)
        pairs += [(value, error), (value, None)]
    said = visit().run(f"{[list(pair) for pair in pairs]}.map(([value, error]) => formatNumber(value, error))".replace("None", "null"))
    assert said == [format_number(value, error) for value, error in pairs]


def test_everything_that_can_be_used_has_a_name(visit: Open) -> None:
    shown = visit()
    shown.run("document.querySelectorAll('details').forEach((block) => { block.open = true; })")
    nodes = shown.call("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "checkbox", "combobox", "link", "navigation", "region", "table", "image"):
        assert roles[role], role
        assert all(name.strip() for name in roles[role]), role
    assert len(roles["main"]) == len(roles["banner"]) == 1


def test_the_first_tab_skips_to_the_content(visit: Open) -> None:
    shown = visit()
    shown.press("Tab")
    assert shown.run("document.activeElement.className") == "skip"
    assert shown.run("document.activeElement.getBoundingClientRect().left") >= 0
    shown.press("Enter")
    shown.settle()
    assert shown.run("document.activeElement.id") == "content"


def test_names_stay_in_sight_while_a_table_scrolls(visit: Open) -> None:
    shown = visit("#ranking-mass_bump-1", width=390)
    offset = """(() => { const box = document.querySelector("#toy-mass_bump .scroll"); box.scrollLeft = 400;
      return [box.scrollLeft, box.querySelector("tbody th").getBoundingClientRect().left - box.getBoundingClientRect().left]; })()"""
    scrolled, left = shown.run(offset)
    assert scrolled > 100
    assert abs(left) <= 2


# Texts below a contrast of 4.5 (WCAG 2.2, 1.4.3).
FAINT = """(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const ground = (element) => {
    const colour = parts(getComputedStyle(element).backgroundColor);
    return colour.length === 3 || colour[3] > 0 ? colour : element.parentElement ? ground(element.parentElement) : [255, 255, 255];
  };
  const texts = Array.from(document.querySelectorAll("body *")).filter((element) => !element.closest("script, noscript")
    && element.checkVisibility() && Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((element) => {
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [low, high] = [light(parts(ink)), light(ground(element))].sort((a, b) => a - b);
    return [element.tagName, element.textContent.slice(0, 30), (high + .05) / (low + .05)];
  }).filter(([, , ratio]) => ratio < 4.5);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit: Open, scheme: str) -> None:
    shown = visit(scheme=scheme)
    shown.run("document.querySelectorAll('details').forEach((block) => { block.open = true; })")
    assert shown.run(FAINT) == []


def test_print_leaves_out_what_cannot_be_used_on_paper(visit: Open) -> None:
    shown = visit()
    shown.call("Emulation.setEmulatedMedia", media="print")
    assert not shown.run("document.querySelector('nav').checkVisibility()")
    assert not shown.run("document.getElementById('compare-form').checkVisibility()")
    assert shown.run("document.querySelector('#toy-mass_bump table').checkVisibility()")
