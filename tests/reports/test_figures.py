"""Figures and loss curves: what is drawn and where, what is left out, and that hostile labels are harmless."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow
import pyarrow.parquet
import pytest
from scipy.stats import binomtest
from test_outline import read_outline

from touchneedle.reports.curves import MAX_POINTS, Series, averaged, parts, pooled, read_curves
from touchneedle.reports.figure_coverage import BAND_LEVEL, expected_band
from touchneedle.reports.figure_scan import draw_scan
from touchneedle.reports.figures import FIGURES, draw_all
from touchneedle.reports.losses import loss_picture
from touchneedle.reports.material import COLOURS, MAX_ROWS, gather
from touchneedle.reports.panels import Box, Ink, Panel
from touchneedle.reports.rows import read_results
from touchneedle.reports.scales import Scale, number, span

SIZE = 40_000


def rows_with_curves(make: Any, folder: Path, *names: str) -> list[Any]:
    for name in names:
        record = make.record(name)
        make.write(folder, record)
        make.write_curves(folder, record.run_id, 0.1)
    return read_results(folder).rows


def write_all_curves(path: Path, shift: float) -> None:
    """Every curve that an evaluation writes, of a toy with two features and two nuisances."""
    grid = [k / 40 for k in range(1, 40)]
    lines: list[tuple[str, str, float, float, float | None, float | None]] = []
    for who in ("exact", "estimator"):
        own = shift if who == "estimator" else 0.0
        lines += [("scan", who, x, 40 * (x - 0.5 - own) ** 2, None, None) for x in grid]
        lines += [("slice", f"{who}, {axis}, mu=0.8", x, math.sin(x) + own, None, None) for axis in ("mass [GeV]", "pt") for x in grid[:33]]
        for axis, way in [(axis, way) for axis in ("jet_scale", "width [GeV]") for way in ("up", "down")]:
            slope = 1 if way == "up" else -1
            lines += [("response", f"{who}, {axis}, {way}", x, slope * x + own, x - 0.1, x + 0.1) for x in grid[:9]]
    lines += [("ratio", "estimator", x, shift * x, shift * x - 0.1, shift * x + 0.1) for x in grid[:20]]
    lines += [("reliability", "point 1", x, x + shift, x + shift - 0.1, x + shift + 0.1) for x in grid[:15]]
    for curve, series in (("sbc", "signal_fraction"), ("sbc", "jet_scale"), ("expected_coverage", "density"), ("pit", "log_density")):
        lines += [(curve, f"{series}, n_set=10", x, shift * x * (1 - x), -0.05, 0.05) for x in grid]
    lines += [("closure", axis, x, 1 + shift * x, 0.95 + shift * x, 1.05 + shift * x) for axis in ("mass [GeV]", "pt") for x in grid[:12]]
    for n in (100, 1000):
        heights = [(k / 2 - 3.75, math.exp(-0.5 * (k / 2 - 3.75 - shift) ** 2) / 2.5) for k in range(16)]
        lines += [("pull", f"signal_fraction, n_events={n}", x, y, y - 0.02, y + 0.03) for x, y in heights]
    columns = dict(zip(("curve", "series", "x", "y", "low", "high"), map(list, zip(*lines, strict=True)), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def full(make: Any, tmp_path: Path) -> list[Any]:
    """An oracle and eleven rows of two seeds, with all curves."""
    names = ["oracle", "template_histogram", *(f"net_{k}" for k in range(MAX_ROWS))]
    for k, name in enumerate(names):
        for seed in range(2):
            record = make.record(name, seed, [*make.fit_metrics(300.0, 0.03 * k), *make.density_metrics(0.004)])
            make.write(tmp_path, record)
            write_all_curves(tmp_path / record.run_id / "curves.parquet", 0.01 * k)
    return read_results(tmp_path).rows


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_curves_come_back_as_written(make: Any, tmp_path: Path) -> None:
    curves = read_curves(make.write_curves(tmp_path, "run", 0.5))
    assert set(curves) == {("scan", "exact"), ("scan", "estimator"), ("ratio", "estimator"), ("loss", "train"), ("loss", "validation")}
    ratio = curves["ratio", "estimator"]
    assert ratio.y == pytest.approx([0.5 * x for x in ratio.x])
    assert all(math.isnan(value) for value in curves["scan", "exact"].low)
    assert max(len(series.x) for series in curves.values()) <= MAX_POINTS


def test_series_names_have_three_parts() -> None:
    assert parts("exact, mass [GeV], mu=0.8") == ("exact", "mass [GeV]", "mu=0.8")
    assert parts("estimator, a, b, up") == ("estimator", "a, b", "up")


def test_seeds_are_averaged_with_their_spread_and_histograms_with_their_errors() -> None:
    seeds = [Series([1.0], [y], [y - 0.3], [y + 0.4]) for y in (2.0, 4.0)]
    both = averaged(seeds)
    assert (both.y, both.low, both.high) == ([3.0], [pytest.approx(3 - math.sqrt(2))], [pytest.approx(3 + math.sqrt(2))])
    assert averaged(seeds[:1]) == seeds[0]
    assert averaged([seeds[0], Series([9.0], [5.0], [4.0], [6.0])]) == seeds[0], "other points cannot be averaged"
    sums = pooled(seeds)
    assert (sums.y, sums.low, sums.high) == ([3.0], [pytest.approx(3 - 0.3 / math.sqrt(2))], [pytest.approx(3 + 0.4 / math.sqrt(2))])


def test_every_figure_is_drawn_small_and_the_same_twice(full: list[Any]) -> None:
    figures = draw_all(full, "signal_fraction")
    assert [figure.name for figure in figures] == [kind.name for kind in FIGURES]
    for figure in figures:
        svg = figure.picture.svg
        assert 1_000 < len(svg.encode()) < SIZE, figure.name
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == figure.picture.caption
        assert not re.search(r" (id|href|xmlns)=|nan|inf|url\(", svg), figure.name
        assert "the first 10 of 11 rows are drawn" in figure.picture.notes
        assert figure.picture.problems == ()
    assert draw_all(list(full), "signal_fraction") == figures


def test_axes_have_names_and_units(full: list[Any]) -> None:
    found = {figure.name: set(texts(figure.picture.svg)) for figure in draw_all(full, "signal_fraction")}
    assert {"mass [GeV]", "pt", "log r, mu = 0.8"} <= found["slices"]
    assert {"jet_scale", "width [GeV]", "mean log r"} <= found["responses"]
    assert {"mass [GeV]", "reweighted / simulated"} <= found["closure"]
    assert {"reliability", "ranks of signal_fraction (SBC)", "rank"} <= found["calibration"]
    assert {"events", "bias [oracle sigma]", "n*, events at a bias of 0.2 sigma"} <= found["bias"]
    assert {"coverage, nominal 68.27%", "oracle", "net_0"} <= found["coverage"]


def test_each_row_but_the_oracle_is_drawn_once(make: Any, tmp_path: Path) -> None:
    rows = rows_with_curves(make, tmp_path, "oracle", "a", "b")
    picture = draw_scan(gather(rows, "f"))
    assert picture.notes == ()
    assert [colour for colour in COLOURS if colour in picture.svg] == list(COLOURS[:2])
    assert [text for text in texts(picture.svg) if text in ("oracle", "exact", "a", "b")] == ["exact", "a", "b"]


def test_options_that_rows_share_are_not_repeated(make: Any, tmp_path: Path) -> None:
    make.write(tmp_path, make.record("a", params={"depth": 2, "bins": 8}, run_id="1"))
    make.write(tmp_path, make.record("b", params={"depth": 2, "bins": 9}, run_id="2", design="templates"))
    names = [drawn.label for drawn in gather(read_results(tmp_path).rows, "f").rows]
    assert sorted(names) == ["a bins=8", "b bins=9 (templates)"]


def test_what_is_missing_is_said(make: Any, tmp_path: Path) -> None:
    rows = rows_with_curves(make, tmp_path, "a")
    make.write(tmp_path, make.record("b", metrics=[]))
    figures = {figure.name: figure.picture for figure in draw_all(read_results(tmp_path).rows, "signal_fraction")}
    assert figures["scan"].notes == ("no curves: b",)
    assert figures["bias"].notes == ("no fits: b",)
    for name in ("slices", "responses", "calibration", "closure", "pulls"):
        assert figures[name].svg == ""
        assert figures[name].notes[0].startswith("no ")
    assert len(rows) == 1
    assert all(not figure.picture.svg and figure.picture.notes for figure in draw_all([], ""))


def test_unreadable_curves_are_told_once(make: Any, tmp_path: Path) -> None:
    record = make.record("a")
    make.write(tmp_path, record)
    make.write_curves(tmp_path, record.run_id, broken=True)
    problems = [problem for figure in draw_all(read_results(tmp_path).rows, "f") for problem in figure.picture.problems]
    assert [problem.file for problem in problems] == [f"{record.run_id}/curves.parquet"]


@pytest.mark.parametrize("label", ["_hidden", r"$\frac{", "a\nb", "\U0001f642", "<script>alert(1)</script>", '"&quot; onload="x'])
def test_any_label_can_be_drawn(make: Any, tmp_path: Path, label: str) -> None:
    record = make.record(label, metrics=make.fit_metrics(math.inf, math.nan), run_id="run")
    make.write(tmp_path, record)
    write_all_curves(tmp_path / "run" / "curves.parquet", 0.1)
    for figure in draw_all(read_results(tmp_path).rows, label):
        if figure.picture.svg:
            root = ElementTree.fromstring(figure.picture.svg)
            assert {element.tag for element in root.iter()} <= {"svg", "path", "rect", "text"}
            assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 0.0])
def test_any_number_can_be_drawn(make: Any, tmp_path: Path, value: float) -> None:
    numbers = [make.metric("fit/n_star", value, value, parameter="f", point=0), *make.fit_metrics(value, value)]
    make.write(tmp_path, make.record("a", metrics=numbers, run_id="run"))
    path = tmp_path / "run" / "curves.parquet"
    write_all_curves(path, 0.1)
    table = pyarrow.parquet.read_table(path)
    for name in ("y", "low", "high"):
        changed = [value if k % 3 else number for k, number in enumerate(table.column(name).to_pylist())]
        table = table.set_column(table.column_names.index(name), name, pyarrow.array(changed, pyarrow.float64()))
    pyarrow.parquet.write_table(table, path)
    for figure in draw_all(read_results(tmp_path).rows, "signal_fraction"):
        assert not re.search(r"[^a-z](nan|inf)[^a-z]", figure.picture.svg), figure.name


def test_points_and_bars_stand_where_their_numbers_are() -> None:
    panel = Panel(Box(10, 20, 200, 100), Scale(0, 10), Scale(-1, 1))
    panel.points([5.0], [0.5], [0.0], [1.0], Ink(marker="o"))
    panel.line([0.0, 10.0, math.nan, 5.0, 5.0], [0.0, 1.0, 0.0, -1.0, 5.0], Ink())
    assert panel.parts[0].startswith('<path d="M100.0 50.0V0.0"')
    assert '<path d="M100.0 25.0h0"' in panel.parts[1]
    assert 'd="M0 50l200-50 M100 100l0-300"' in panel.parts[2]
    assert Scale(1, 10_000, log=True).share(100) == pytest.approx(0.5)
    assert math.isnan(Scale(1, 10, log=True).share(-1.0))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-2.6, 2.6, ["-2", "0", "2"]),
        (0, 12_000, ["0", "2,500", "5,000", "7,500", "10,000"]),
        (0.0012, 0.0017, ["0.0012", "0.0013", "0.0014", "0.0015", "0.0016", "0.0017"]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[str]) -> None:
    assert [text.replace("\N{MINUS SIGN}", "-") for _, text in Scale(low, high).ticks()] == expected


def test_ticks_of_a_logarithmic_axis_are_powers_of_ten() -> None:
    assert [text for _, text in Scale(50, 2e6, log=True).ticks()] == ["100", "1,000", "10,000", "1e5", "1e6"]
    assert number(2.5e-7, 1e-7) == "2.5e\N{MINUS SIGN}07"


def test_a_span_holds_what_is_finite() -> None:
    assert span([1.0, math.nan, 3.0, math.inf], 0.5) == (0.0, 4.0)
    assert span([]) == (-1.0, 1.0)
    low, high = span([2.0, 2.0])
    assert low < 2.0 < high


@pytest.mark.parametrize(("level", "n"), [(0.6827, 100), (0.9545, 500), (0.9545, 10)])
def test_the_band_of_coverage_holds_what_a_right_answer_gives(level: float, n: int) -> None:
    low, high = (round(n * edge) for edge in expected_band(level, n))
    outside = 1 - BAND_LEVEL
    assert binomtest(low - 1, n, level, "less").pvalue < outside / 2 <= binomtest(low, n, level, "less").pvalue
    if high < n:
        assert binomtest(high + 1, n, level, "greater").pvalue <= outside / 2


def test_loss_curve_ends_where_the_data_end(make: Any, tmp_path: Path) -> None:
    svg = loss_picture(make.write_curves(tmp_path, "run"))
    (train,) = re.findall(r'class="train" d="([^"]*)"', svg)
    points = read_outline(train)
    assert points[0] == (52.0, 6.0)  # highest loss, first epoch
    assert points[-1] == (356.0, 98.0)  # lowest loss, last epoch
    assert "to epoch 4" in svg


def test_no_loss_curve_without_data(make: Any, tmp_path: Path) -> None:
    assert loss_picture(tmp_path / "none.parquet") == ""
    assert loss_picture(make.write_curves(tmp_path, "run", broken=True)) == ""
