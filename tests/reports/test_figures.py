"""Figures and loss curves: what is drawn, what is left out, and that hostile labels are harmless."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from touchneedle.reports.figures import MAX_CURVES, MAX_POINTS, draw, literal, read_curves
from touchneedle.reports.losses import loss_picture
from touchneedle.reports.rows import read_results


def rows_with_curves(make: Any, folder: Path, *names: str) -> list[Any]:
    for name in names:
        record = make.record(name)
        make.write(folder, record)
        make.write_curves(folder, record.run_id, 0.1)
    return read_results(folder).rows


def test_curves_come_back_as_written(make: Any, tmp_path: Path) -> None:
    curves = read_curves(make.write_curves(tmp_path, "run", 0.5))
    assert set(curves) == {("scan", "exact"), ("scan", "estimator"), ("ratio", "estimator"), ("loss", "train"), ("loss", "validation")}
    ratio = curves["ratio", "estimator"]
    assert ratio.y == pytest.approx([0.5 * x for x in ratio.x])
    assert all(math.isnan(value) for value in curves["scan", "exact"].low)
    assert max(len(series.x) for series in curves.values()) <= MAX_POINTS


def test_each_row_but_the_oracle_is_drawn_once(make: Any, tmp_path: Path) -> None:
    rows = rows_with_curves(make, tmp_path, "oracle", "a", "b")
    picture = draw(rows, "f", "p")
    assert picture.notes == ()
    colours = set(re.findall(r"stroke: (#[0-9a-f]{6})", picture.svg))
    assert {"#0072b2", "#d55e00", "#000000"} <= colours
    assert "#009e73" not in colours


def test_many_rows_are_limited_and_it_is_said(make: Any, tmp_path: Path) -> None:
    rows = rows_with_curves(make, tmp_path, *(f"net_{k}" for k in range(MAX_CURVES + 2)))
    assert draw(rows, "f", "p").notes == (f"the first {MAX_CURVES} of {MAX_CURVES + 2} rows with curves are drawn",)


def test_the_readers_own_matplotlib_style_does_not_matter(make: Any, tmp_path: Path) -> None:
    rows = rows_with_curves(make, tmp_path, "a")
    plain = draw(rows, "f", "p").svg
    with matplotlib.rc_context({"lines.marker": "o", "axes.facecolor": "red", "font.size": 20}):
        assert draw(rows, "f", "p").svg == plain
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("label", ["_hidden", r"$\frac{", "a\nb", "\U0001f642", "<script>"])
def test_any_label_can_be_drawn(make: Any, tmp_path: Path, label: str) -> None:
    record = make.record(label, run_id="run")
    make.write(tmp_path, record)
    make.write_curves(tmp_path, "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw(read_results(tmp_path).rows, label, "p").svg
    assert svg.startswith("<svg")
    assert "script" not in svg


def test_labels_without_glyphs_become_question_marks() -> None:
    assert literal("a\nb\U0001f642") == "a?b?"


def test_loss_curve_ends_where_the_data_end(make: Any, tmp_path: Path) -> None:
    svg = loss_picture(make.write_curves(tmp_path, "run"))
    (train,) = re.findall(r'class="train" points="([^"]*)"', svg)
    points = [tuple(map(float, point.split(","))) for point in train.split()]
    assert len(points) == 5
    assert points[0] == (52.0, 6.0)  # highest loss, first epoch
    assert points[-1] == (356.0, 98.0)  # lowest loss, last epoch
    assert "to epoch 4" in svg


def test_no_loss_curve_without_data(make: Any, tmp_path: Path) -> None:
    assert loss_picture(tmp_path / "none.parquet") == ""
    assert loss_picture(make.write_curves(tmp_path, "run", broken=True)) == ""
