"""The files for programs: the same numbers as on the page and in the records."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from touchneedle.benchmark.records import read_records
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.numbers import format_number
from touchneedle.reports.parquet_table import to_parquet
from touchneedle.reports.text_tables import CSV_FIELDS

TOYS = ("toy_a", "toy_b", "toy_c")


@pytest.fixture
def board(make: Any, tmp_path: Path) -> Path:
    """Three contestants on three toys with two seeds, one of them with options, one run failed."""
    kl = {"ratio_bce": 0.02, "zuko_nsf": 0.001, "posterior_flow": 0.3}
    for toy in TOYS:
        for name, value in kl.items():
            for seed in (0, 1):
                params = {"transforms": 5} if name == "zuko_nsf" else {}
                record = make.record(name, seed, make.density_metrics(value * (1 + seed)), toy=toy, params=params)
                if (toy, name, seed) == ("toy_b", "ratio_bce", 1):
                    record = record.model_copy(update={"status": "failed", "metrics": [], "reason": "diverged"})
                make.write(tmp_path / "results", record)
    return tmp_path / "results"


def written(results: Path, out: Path) -> dict[str, Any]:
    write_report(results, out)
    return json.loads((out / "summary.json").read_text())


def test_parquet_holds_the_rows_of_the_csv_file_with_numbers_as_numbers(demo: Path, tmp_path: Path) -> None:
    write_report(demo, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text())))
    found = pyarrow.parquet.read_table(tmp_path / "leaderboard.parquet").to_pylist()
    assert len(found) == len(rows) > 50
    for row, line in zip(rows, found, strict=True):
        assert tuple(line) == CSV_FIELDS
        assert {name: "" if value is None else str(value) for name, value in line.items()} == row


def test_parquet_numbers_are_those_of_the_records(demo: Path, tmp_path: Path) -> None:
    write_report(demo, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "leaderboard.parquet").to_pandas()
    alone = [r for r in read_records(demo) if (r.toy.name, r.status) == ("two_moons", "ok")]
    for record in alone:
        rows = table[(table.toy == "two_moons") & (table.estimator == record.estimator.name) & (table.family != "cost")]
        assert dict(zip(rows.metric, rows.value, strict=True)) == {metric.name: metric.value for metric in record.metrics}
        assert dict(zip(rows.metric, rows.stderr, strict=True)) == {metric.name: metric.stderr for metric in record.metrics}


def test_parquet_keeps_infinities() -> None:
    line = {"status": "ok", "value": "inf", "stderr": "", "n_train": "10"}
    text = ",".join(CSV_FIELDS) + "\n" + ",".join(line.get(name, "") for name in CSV_FIELDS) + "\n"
    (row,) = pyarrow.parquet.read_table(io.BytesIO(to_parquet(text))).to_pylist()
    assert (row["value"], row["stderr"], row["n_train"]) == (math.inf, None, 10)


def test_summary_page_and_markdown_tell_the_same_ranks(board: Path, tmp_path: Path) -> None:
    (found,) = written(board, tmp_path)["boards"]
    assert {(one["label"], one["runs"], one["failed"]) for one in found["contestants"]} == {
        ("ratio_bce", 6, 1),
        ("zuko_nsf transforms=5", 6, 0),
        ("posterior_flow", 6, 0),
    }
    page = html.unescape((tmp_path / "leaderboard.html").read_text())
    markdown = (tmp_path / "leaderboard.md").read_text().replace("\\", "")
    families = {family["family"]: family for family in found["families"]}
    assert set(families) == {"density", "closure", "cost"}
    for family in families.values():
        for rank in family["ranks"]:
            low, high = rank["interval"]
            interval = f"{low}" if low == high else f"{low} to {high}"
            score = format_number(rank["score"], rank["stderr"])
            (line,) = (text for text in markdown.splitlines() if text.startswith(f"| {rank['label']} | ") and "±" in text and "to" in text)
            assert f" {score}, {interval}, {rank['group']} " in line
            assert f"{interval} <sup>{rank['group']}</sup><small>{score}</small>" in page


def test_the_summary_is_versioned_and_has_no_bare_infinity(board: Path, tmp_path: Path) -> None:
    found = written(board, tmp_path)
    assert (found["schema_version"], found["level"]) == (1, 0.95)
    assert not re.search(r"\b(NaN|Infinity)\b", re.sub(r'"[^"]*"', "", (tmp_path / "summary.json").read_text()))
