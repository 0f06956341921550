"""What changed since other records: only what its errors do not cover, and never more certain than the number of looks allows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from touchneedle.conf.errors import InputError
from touchneedle.reports.changes import Changes, changes_since
from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import build_sections


def since(new: Path, old: Path) -> Changes:
    return changes_since(build_sections(read_results(new)), old)


def runs(make: Any, folder: Path, kl: dict[int, float], estimator: str = "ratio_bce", **changes: Any) -> Path:
    return make.write(
        folder, *(make.record(estimator, seed, [make.metric("density/kl", value, 0.01)], **changes) for seed, value in kl.items())
    )


def test_equal_records_did_not_change(demo: Path) -> None:
    found = since(demo, demo)
    assert (found.changes, found.appeared, found.vanished) == ((), (), ())
    assert found.compared > 50


def test_a_change_beyond_its_errors_is_told_with_both_values(make: Any, tmp_path: Path) -> None:
    old, new = runs(make, tmp_path / "old", {0: 0.1}), runs(make, tmp_path / "new", {0: 0.2})
    (change,) = since(new, old).changes
    assert (change.old, change.new, change.verdict, change.certain) == ("0.100 ± 0.010", "0.200 ± 0.010", "worse", True)
    assert change.sigma == pytest.approx(0.1 / math.hypot(0.01, 0.01))
    (back,) = since(old, new).changes
    assert back.verdict == "better"
    assert since(runs(make, tmp_path / "near", {0: 0.12}), old).changes == ()


def test_equal_seeds_are_paired(make: Any, tmp_path: Path) -> None:
    old = runs(make, tmp_path / "old", {0: 0.1, 1: 0.5, 2: 0.9, 3: 1.3})
    new = runs(make, tmp_path / "new", {0: 0.11, 1: 0.512, 2: 0.909, 3: 1.31})
    (change,) = since(new, old).changes
    assert change.sigma is not None
    assert 3 < change.sigma < 6  # the means differ by far less than their own errors


def test_versions_of_estimators_are_matched_and_versions_of_toys_are_not(make: Any, tmp_path: Path) -> None:
    old = runs(make, tmp_path / "old", {0: 0.1})
    record = make.record("ratio_bce", 0, [make.metric("density/kl", 0.5, 0.01)])
    newer = record.model_copy(update={"estimator": record.estimator.model_copy(update={"version": "2", "distribution": "fork"})})
    assert len(since(make.write(tmp_path / "fork", newer), old).changes) == 1
    found = since(runs(make, tmp_path / "toy", {0: 0.5}, version="2"), old)
    assert (found.compared, found.changes) == (0, ())
    assert found.appeared == ("mass_bump (version 2) ratio_bce, small 10,000, prior",)
    assert found.vanished == ("mass_bump (version 1) ratio_bce, small 10,000, prior",)


def test_gates_and_lost_numbers_change_without_a_significance(make: Any, tmp_path: Path) -> None:
    def folder(name: str, state: str, value: float | None) -> Path:
        metrics = [make.metric("gates/gate_bias", 0.1, 0.01, state=state), make.metric("density/kl", value, 0.01)]
        return make.write(tmp_path / name, make.record(metrics=metrics))

    found = since(folder("new", "fail", None), folder("old", "pass", 0.1))
    assert {(c.metric, c.old, c.new, c.sigma) for c in found.changes} == {
        ("gates/gate_bias", "pass", "fail", None),
        ("density/kl", "0.100 ± 0.010", "n/a", None),
    }


def test_chance_alone_gives_as_many_changes_as_stated_and_hardly_a_certain_one(make: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(4)

    def folder(name: str) -> Path:
        metrics = [make.metric("density/ks", float(generator.normal(1, 0.1)), 0.1, feature=f"f{k}") for k in range(1000)]
        return make.write(tmp_path / name, make.record(metrics=metrics))

    found = since(folder("new"), folder("old"))
    assert found.expected == pytest.approx(45.5, abs=0.01)
    assert abs(len(found.changes) - found.expected) < 4 * math.sqrt(found.expected)
    assert not any(change.certain for change in found.changes)


def test_withheld_numbers_are_not_shown_as_changes(make: Any, tmp_path: Path) -> None:
    def folder(name: str, kl: float) -> Path:
        values = {"oracle": 0.5, "best_gaussian": 0.01, "ratio_bce": kl}
        return make.write(tmp_path / name, *(make.record(n, metrics=[make.metric("density/kl", v, 1e-7)]) for n, v in values.items()))

    assert since(folder("new", 0.2), folder("old", 0.1)).changes == ()


def test_all_files_tell_the_changes(make: Any, tmp_path: Path) -> None:
    old = runs(make, tmp_path / "old", {0: 0.1})
    new = runs(make, runs(make, tmp_path / "new", {0: 0.2}), {0: 0.3}, "zuko_nsf")
    write_report(new, tmp_path / "out", old)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["changes"]
    assert (summary["compared"], summary["changes"][0]["verdict"]) == (1, "worse")
    for ending in ("html", "md"):
        text = (tmp_path / "out" / f"leaderboard.{ending}").read_text().replace("\\", "")
        assert "1 numbers compared; 1 changed by more than 2 sigma, 0.0 expected by chance; 1 remain" in text
        assert "+7.1" in text
        assert "new: mass_bump (version 1) zuko_nsf, small 10,000, prior" in text


def test_a_missing_folder_is_one_line(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of records"):
        write_report(demo, tmp_path / "out", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
