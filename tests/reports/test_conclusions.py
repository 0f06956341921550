"""Conclusions follow the numbers: who leads, who cannot be told from it, and what nobody can say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from touchneedle.benchmark.export_rows import Export, write_exports
from touchneedle.reports.conclusions import Conclusion, conclude
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.overview import build_overview
from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import build_sections

TOYS = ("toy_a", "toy_b", "toy_c", "toy_d", "toy_e")


def conclusions(folder: Path, exports: list[Export] | None = None) -> dict[str, Conclusion]:
    overview = build_overview(build_sections(read_results(folder)), exports or [])
    return {one.question: one for one in overview.conclusions}


def answer(folder: Path, start: str, exports: list[Export] | None = None) -> Conclusion:
    (found,) = (one for question, one in conclusions(folder, exports).items() if question.startswith(start))
    return found


def fits(make: Any, star: float, bias: float, width: float, **kinds: str) -> list[Any]:
    parameters = {make.poi: "interest", **kinds}
    rows = [
        make.metric(f"fit/{name}", value, 0.01, parameter=parameter, kind=kind, point=0, n_events=n)
        for parameter, kind in parameters.items()
        for n in (100, 1000)
        for name, value in (("bias_vs_oracle", bias * n / 1000), ("width_vs_oracle", width))
    ]
    return [make.metric("fit/n_star", star, 0.1 * star, parameter=make.poi, kind="interest", point=0), *rows]


def sweep(make: Any, results: Callable[..., Path], cells: dict[str, list[Any]], toys: tuple[str, ...] = TOYS, **changes: Any) -> Path:
    folder = Path()
    for toy in toys:
        for name, metrics in cells.items():
            for seed in (0, 1):
                folder = results(make.record(name, seed, metrics, toy=toy, run_id=f"{toy}-{name}-{seed}-{len(str(changes))}", **changes))
    return folder


@pytest.fixture
def apart(make: Any, results: Callable[..., Path]) -> Path:
    numbers = {"first": (1000.0, 0.1, 1.02), "second": (100.0, 0.5, 1.3), "third": (10.0, 2.0, 0.8)}
    return sweep(make, results, {name: fits(make, *three) for name, three in numbers.items()})


def test_a_leader_on_every_toy_is_named_with_its_number(apart: Path) -> None:
    found = answer(apart, "Which method for a fit")
    assert found.told
    assert "first leads (expected rank in fit 1.00 ± 0.14 of 3), told from all others: second and third" in found.text
    assert found.evidence[0][1] == "board-1"


def test_equal_methods_are_not_told_apart(make: Any, results: Callable[..., Path]) -> None:
    folder = sweep(make, results, {name: fits(make, 300.0, 0.2, 1.0) for name in ("one", "other")})
    found = answer(folder, "Which method for a fit")
    assert not found.told
    assert "do not tell" in found.text
    assert not answer(folder, "With few observed").told


def test_few_observed_events_go_by_the_bias_at_the_smallest_size(apart: Path) -> None:
    found = answer(apart, "With few observed")
    assert found.told
    assert "to 100 events" in found.text
    assert re.search(r"first 0\.01\d? ± .*largest: third 0\.20\d? ±", found.text)


def test_biases_of_opposite_seeds_do_not_cancel(make: Any, results: Callable[..., Path]) -> None:
    for toy in TOYS:
        for seed, sign in enumerate((1, -1)):
            folder = results(
                make.record("swings", seed, fits(make, 100.0, 5.0 * sign, 1.0), toy=toy),
                make.record("steady", seed, fits(make, 100.0, 1.0, 1.0), toy=toy),
            )
    text = answer(folder, "With few observed").text
    assert "steady 0.100 ± " in text
    assert re.search(r"largest: swings 0\.50\d? ±", text)


def test_widths_name_who_is_narrower_than_the_exact_answer(apart: Path) -> None:
    text = answer(apart, "What does an interval cost").text
    assert "first 1.02" in text
    assert re.search(r"coverage has to be looked at: third\.", text)


def test_few_simulated_events_need_a_second_budget(make: Any, results: Callable[..., Path], apart: Path) -> None:
    assert not answer(apart, "With few simulated").told
    sweep(make, results, {"third": fits(make, 900.0, 0.1, 1.0), "first": fits(make, 9.0, 3.0, 2.0)}, n_train=500)
    found = answer(apart, "With few simulated")
    assert found.told
    assert "500 training events" in found.text
    assert "third leads" in found.text


def test_many_nuisances_are_found_by_what_was_fitted(make: Any, results: Callable[..., Path], apart: Path) -> None:
    assert "no toy with 3 nuisances" in answer(apart, "With many nuisances").text
    kinds = {f"nu_{k}": "nuisance" for k in range(4)}
    sweep(make, results, {"second": fits(make, 900.0, 0.1, 1.0, **kinds), "first": fits(make, 9.0, 3.0, 2.0, **kinds)}, ("rich_toy",))
    found = answer(apart, "With many nuisances")
    assert found.told
    assert "4 nuisances" in found.text
    assert "second leads (n* 900" in found.text
    assert [name for name, _ in found.evidence] == ["rich_toy"]


def test_signed_weights_are_found_by_their_metric(make: Any, results: Callable[..., Path], apart: Path) -> None:
    assert not answer(apart, "With signed").told
    signed = [make.metric("density/signed_sliced_w1", 0.1, 0.01, point=0)]
    sweep(make, results, {"second": [*fits(make, 900.0, 0.1, 1.0), *signed], "first": [*fits(make, 9.0, 3.0, 2.0), *signed]}, ("negative",))
    assert "second leads" in answer(apart, "With signed").text


def test_a_single_toy_is_told_as_a_single_toy(make: Any, results: Callable[..., Path]) -> None:
    cells = {"good": fits(make, 900.0, 0.1, 1.0), "poor": fits(make, 9.0, 3.0, 2.0)}
    found = answer(sweep(make, results, cells, ("alone",)), "Which method for a fit")
    assert not found.told
    assert "a ranking needs 3" in found.text
    assert "On alone (small, 10,000 training events) good leads" in found.text
    assert found.evidence == (("alone", "toy-1"),)


def test_links_follow_the_names_of_the_page(make: Any, results: Callable[..., Path]) -> None:
    cells = {"good": fits(make, 900.0, 0.1, 1.0), "poor": fits(make, 9.0, 3.0, 2.0)}
    sections = build_sections(read_results(sweep(make, results, cells, ("alone",))))
    overview = build_overview(sections, toy_anchors=["toy-alone"])
    assert overview.conclusions[0].evidence == (("alone", "toy-alone"),)


def test_deployment_is_that_of_the_survey(apart: Path) -> None:
    assert not answer(apart, "Can I deploy").told
    rows = [Export(estimator=name, toy="t", format="onnx", size=size, seconds=1.0) for name, size in (("first", 9), ("second", 0))]
    text = answer(apart, "Can I deploy", rows).text
    assert text == "As ONNX, answers checked after loading: first; not: second; not tried: third."


def test_gates_are_counted(make: Any, results: Callable[..., Path]) -> None:
    def gate(state: str) -> list[Any]:
        return [*fits(make, 100.0, 0.1, 1.0), make.metric("gates/gate_bias", 0.1, 0.1, state=state)]

    text = answer(sweep(make, results, {"clean": gate("pass"), "dirty": gate("fail")}), "Whom do the gates").text
    assert text == "No gate fails on any toy for clean, of 2 judged; most fail for dirty (5 of 5)."


def test_nothing_to_compare_concludes_nothing(make: Any, results: Callable[..., Path]) -> None:
    assert conclusions(results(make.record("alone"))) == {}
    assert conclude([], [], []) == []


def test_every_link_leads_somewhere(demo: Path, apart: Path, tmp_path: Path) -> None:
    write_exports(apart, [Export(estimator="first", toy="t", format="onnx", size=9, seconds=1.0)])
    for folder in (demo, apart):
        write_report(folder, tmp_path / "out")
        page = (tmp_path / "out" / "leaderboard.html").read_text()
        links = re.findall(r'href="#([^"]+)"', page[page.index('id="overview"') : page.index('class="toy"')])
        assert links
        # Some lead to a comparison in a certain state, which stands behind a question mark.
        assert all(f'id="{link}"' in page for link in (found.partition("?")[0] for found in links))
