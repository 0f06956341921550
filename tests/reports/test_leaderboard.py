"""The files of a report: same numbers, stable bytes, nothing remote, nothing executed, problems told."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from touchneedle.conf.errors import InputError
from touchneedle.reports import page
from touchneedle.reports.leaderboard import Report, write_report
from touchneedle.reports.numbers import format_number

NAMES = ("leaderboard.html", "leaderboard.md", "leaderboard.csv")
FOR_PROGRAMS = ("leaderboard.parquet", "summary.json")


def texts(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf-8") for name in NAMES}


def parts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (*NAMES, *FOR_PROGRAMS)}


def report(results: Path, out: Path) -> tuple[Report, dict[str, str]]:
    done = write_report(results, out)
    return done, texts(out)


def csv_lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def markdown_rows(text: str) -> list[list[str]]:
    toys = re.sub(r"^## Overview\n.*?(?=^## )", "", text, flags=re.S | re.M)
    lines = [line for line in toys.splitlines() if line.startswith("| ") and not line.startswith("| rank")]
    return [[html.unescape(cell).replace("\\", "").strip() for cell in line.strip("|").split(" | ")] for line in lines]


class Rows(HTMLParser):
    """Texts of the cells of every sortable table, without their small print."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._skip = self._inside = self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside = ("class", "sortable") in attrs
        elif tag == "tr" and self._inside:
            self.rows.append([])
        elif tag in ("td", "th") and self._inside:
            self.rows[-1].append("")
            self._cell = True
        self._skip = self._skip or tag == "small"

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._skip = self._skip and tag != "small"

    def handle_data(self, data: str) -> None:
        if self._cell and not self._skip:
            self.rows[-1][-1] += data


def test_writes_its_files_and_prints_nothing(demo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = write_report(demo, tmp_path / "new" / "out")
    assert [path.name for path in done.paths] == [*NAMES, *FOR_PROGRAMS]
    assert all(path.is_file() for path in done.paths)
    assert done.problems == []
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == sorted([*NAMES, *FOR_PROGRAMS])


def test_html_markdown_and_csv_hold_the_same_numbers(demo: Path, tmp_path: Path) -> None:
    _, files = report(demo, tmp_path)
    parser = Rows()
    parser.feed(files["leaderboard.html"])
    page_rows = [row for row in parser.rows if row[0] != "rank"]
    text_rows = markdown_rows(files["leaderboard.md"])
    assert len(page_rows) == len(text_rows) == 9
    for on_page, in_text in zip(page_rows, text_rows, strict=True):
        assert on_page[5:] == in_text[5:]
    lines = csv_lines(files["leaderboard.csv"])
    for in_text in text_rows[:7]:
        name, _, _ = in_text[1].partition(" ")
        (line,) = (x for x in lines if x["estimator"] == name and x["metric"] == "kl" and x["toy"] == "mass_bump" and x["status"] == "ok")
        assert in_text[12] == format_number(float(line["value"]), float(line["stderr"]))


def test_csv_numbers_have_full_precision_and_failures_have_lines(demo: Path, tmp_path: Path) -> None:
    _, files = report(demo, tmp_path)
    lines = csv_lines(files["leaderboard.csv"])
    (star,) = (x for x in lines if x["estimator"] == "ratio_bce" and x["metric"] == "n_star")
    assert float(star["value"]) == pytest.approx(310 * math.sqrt(1.1), rel=1e-14)
    assert (star["rank"], star["group"], star["seeds"], star["n_seeds"]) == ("1", "a", "0 1", "2")
    assert {(x["status"], x["reason"]) for x in lines if x["status"] != "ok"} == {
        ("failed", "loss is not finite at epoch 3"),
        ("skipped", "ratio_bce cannot use design templates"),
    }


def test_bytes_depend_on_the_records_alone(demo: Path, tmp_path: Path) -> None:
    report(demo, tmp_path / "a")
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in sorted(demo.rglob("*"), reverse=True):  # other creation order, other folder
        if file.is_file():
            (moved / file.relative_to(demo)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, moved / file.relative_to(demo))
    report(moved, tmp_path / "b")
    assert parts(tmp_path / "a") == parts(tmp_path / "b")


def test_names_of_files_do_not_change_the_tables(make: Any, tmp_path: Path) -> None:
    def folder(prefix: str, order: int) -> Path:
        names = ("zuko_nsf", "ratio_bce", "posterior_flow")[::order]
        records = [make.record(name, seed, run_id=f"{prefix}{k}{seed}") for k, name in enumerate(names) for seed in (0, 1)]
        return make.write(tmp_path / prefix, *records)

    _, first = report(folder("x", 1), tmp_path / "a")
    _, second = report(folder("y", -1), tmp_path / "b")
    assert first["leaderboard.csv"] == second["leaderboard.csv"]
    assert first["leaderboard.md"] == second["leaderboard.md"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in FOR_PROGRAMS)


def test_page_refers_to_nothing_outside_itself(demo: Path, tmp_path: Path) -> None:
    _, files = report(demo, tmp_path)
    text = files["leaderboard.html"]
    assert "<svg" in text
    assert len(text.encode()) < 3_000_000
    references = re.findall(r"""(?:href|src|srcset|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", text) + re.findall(
        r"url\(([^)]*)\)", text
    )
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link|<iframe|<img|<object|<embed", text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {reference[1:].partition("?")[0] for reference in references} <= set(ids)


def test_infinite_missing_and_nan_values_are_shown_as_such(make: Any, tmp_path: Path) -> None:
    metrics = [
        make.metric("density/kl", math.inf, None),
        make.metric("density/log_ratio_rmse", math.nan, math.nan),
        make.metric("density/log_ratio_median", None, reason="too few events"),
        make.metric("fit/n_star", 1e6, 0.0, parameter="f", point=0, censored="above"),
    ]
    _, files = report(make.write(tmp_path / "results", make.record(metrics=metrics)), tmp_path / "out")
    (row,) = markdown_rows(files["leaderboard.md"])
    assert {"∞", "n/a", "> 1e6"} <= set(row)
    assert "too few events" in files["leaderboard.html"]
    reasons = {line["metric"]: line["reason"] for line in csv_lines(files["leaderboard.csv"]) if line["family"] != "cost"}
    assert reasons == {"kl": "", "log_ratio_rmse": "not a number", "log_ratio_median": "too few events", "n_star": ""}


def test_missing_curves_leave_the_figure_out_with_a_note(make: Any, tmp_path: Path) -> None:
    folder = make.write(tmp_path / "results", *(make.record(name, metrics=make.density_metrics(0.1)) for name in "ab"))
    done, files = report(folder, tmp_path / "none")
    assert 'id="figure-mass_bump-1-scan"' not in files["leaderboard.html"]
    assert "No figure: no curves: a, b" in files["leaderboard.html"]
    make.write_curves(folder, make.record("a").run_id)
    done, files = report(folder, tmp_path / "one")
    assert files["leaderboard.html"].count('id="figure-mass_bump-1-scan"') == 1
    assert "Note: no curves: b" in files["leaderboard.html"]
    assert done.problems == []


def test_unreadable_curves_are_a_problem_but_not_a_crash(make: Any, tmp_path: Path) -> None:
    folder = make.write(tmp_path / "results", make.record("a"))
    make.write_curves(folder, make.record("a").run_id, broken=True)
    done, files = report(folder, tmp_path / "out")
    assert len(done.problems) == 1
    assert "curves.parquet" in done.problems[0]
    assert "curves.parquet" in files["leaderboard.html"]


def test_corrupt_records_are_listed_by_name_and_the_rest_is_reported(make: Any, tmp_path: Path) -> None:
    folder = make.write(tmp_path / "results", make.record("a"))
    (folder / "half.json").write_text('{"schema_version": 1, "run_id"')
    done, files = report(folder, tmp_path / "out")
    assert len(done.problems) == 1
    assert "half.json" in done.problems[0]
    assert all("half.json" in text for text in files.values())
    assert len(markdown_rows(files["leaderboard.md"])) == 1


def test_only_corrupt_records_still_make_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "half.json").write_text("{")
    done, files = report(folder, tmp_path / "out")
    assert len(done.problems) == 1
    assert "half.json" in files["leaderboard.html"]


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_report_is_one_line(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "results").mkdir()
    with pytest.raises(InputError) as caught:
        write_report(tmp_path / "results", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unwritable_folder_is_one_line(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        write_report(demo, tmp_path / "file" / "out")


def test_mixed_versions_stand_apart_and_say_so(make: Any, tmp_path: Path) -> None:
    folder = make.write(tmp_path / "results", make.record(version="1"), make.record(version="2"))
    _, files = report(folder, tmp_path / "out")
    assert files["leaderboard.html"].count("their numbers are never mixed") == 2
    assert "## mass_bump (version 1)" in files["leaderboard.md"]
    assert "## mass_bump (version 2)" in files["leaderboard.md"]


def test_withheld_numbers_are_in_no_file(make: Any, tmp_path: Path) -> None:
    values = {"oracle": 0.777123, "best_gaussian": 0.01, "ratio_bce": 0.654321}
    records = [make.record(name, metrics=[make.metric("density/kl", v, 1e-7)]) for name, v in values.items()]
    _, files = report(make.write(tmp_path / "results", *records), tmp_path / "out")
    assert "withheld" in files["leaderboard.md"]
    assert "controls misordered" in files["leaderboard.html"]
    assert all("0.65432" not in text for text in files.values())
    assert all(line["value"] == "" for line in csv_lines(files["leaderboard.csv"]) if line["family"] == "density")


def test_details_hold_traceback_configuration_and_the_repeating_command(demo: Path, tmp_path: Path) -> None:
    _, files = report(demo, tmp_path)
    text = html.unescape(files["leaderboard.html"])
    assert "FloatingPointError: loss is not finite" in text
    assert "touchneedle run toy=two_moons estimator=zuko_nsf estimator.bins=16 estimator.transforms=5 budget=small" in text
    assert '"torch": "2.13.0"' in text


def test_a_page_that_would_grow_too_large_says_what_it_leaves_out(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [make.metric("density/ks", 0.1, 0.01, point=1, feature=f"feature_{k}") for k in range(300)]
    folder = make.write(tmp_path / "results", make.record(metrics=[*many, *make.density_metrics(0.1)]))
    _, full = report(folder, tmp_path / "full")
    monkeypatch.setattr(page, "MAX_BYTES", len(full["leaderboard.html"].encode()) - 10_000)
    _, thin = report(folder, tmp_path / "thin")
    assert "feature_299" in full["leaderboard.html"]
    assert "feature_299" not in thin["leaderboard.html"]
    assert "leaderboard.csv holds every number" in thin["leaderboard.html"]
    assert full["leaderboard.csv"] == thin["leaderboard.csv"]
