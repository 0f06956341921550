"""Learning curves: slopes against numpy's weighted fit and against known power laws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from touchneedle.reports.leaderboard import write_report
from touchneedle.reports.learning_curves import LearningCurve, learning_curves, slope_of
from touchneedle.reports.learning_figure import draw_curves
from touchneedle.reports.rows import read_results
from touchneedle.reports.sections import build_sections

BUDGETS = (2_000, 10_000, 100_000)


def curves(folder: Path) -> list[LearningCurve]:
    return learning_curves(build_sections(read_results(folder)))


def power_law(make: Any, results: Callable[..., Path], power: float) -> Path:
    folder = Path()
    for n in BUDGETS:
        kl = 10 * n**power
        folder = results(make.record("ratio_bce", 0, [make.metric("density/kl", kl, 0.1 * kl)], n_train=n))
    return folder


def test_passes_over_the_events_may_differ_and_nothing_else(make: Any, results: Callable[..., Path]) -> None:
    def record(n: int, seeds: int, **trainer: int) -> list[Any]:
        made = [
            make.record("ratio_bce", seed, make.density_metrics(10 / n), n_train=n, run_id=f"{n}{seed}{trainer}") for seed in range(seeds)
        ]
        for one in made:
            one.config["trainer"] |= trainer
        return made

    few, many = record(2_000, 2, max_epochs=150), record(100_000, 2, max_epochs=10)
    folder = results(*few, *many, *record(100_000, 1, max_epochs=300), *record(10_000, 2, batch_size=64))
    (curve,) = curves(folder)
    assert [(point.n_train, point.cell.n_seeds) for point in curve.points] == [(2_000, 2), (100_000, 2)]


def test_slopes_are_those_of_a_weighted_fit() -> None:
    generator = np.random.default_rng(0)
    n, errors = np.array([1e3, 4e3, 1e4, 1e5]), np.array([0.1, 0.2, 0.05, 0.1])
    bad = n**-0.7 * np.exp(errors * generator.normal(size=4))
    fitted, covariance = np.polyfit(np.log(n), np.log(bad), 1, w=1 / errors, cov="unscaled")
    residuals = (np.log(bad) - np.polyval(fitted, np.log(n))) / errors
    found = slope_of(list(zip(n, bad, errors * bad, strict=True)))
    assert found is not None
    assert found[0] == pytest.approx(fitted[0], rel=1e-9)
    assert found[1] == pytest.approx(math.sqrt(covariance[0, 0] * max(1.0, np.sum(residuals**2) / 2)), rel=1e-9)


def test_the_error_of_a_slope_covers_the_truth() -> None:
    generator, n = np.random.default_rng(1), np.array(BUDGETS, dtype=float)
    pulls = []
    for _ in range(2000):
        bad = n**-0.5 * np.exp(0.1 * generator.normal(size=3))
        found = slope_of([(a, b, 0.1 * b) for a, b in zip(n, bad, strict=True)])
        assert found is not None
        pulls.append((found[0] + 0.5) / found[1])
    assert abs(np.mean(pulls)) < 4 / math.sqrt(2000)
    assert np.mean(np.abs(pulls) < 2) > 0.9545 - 4 * math.sqrt(0.9545 * 0.0455 / 2000)


def test_a_power_law_is_found_in_the_records(make: Any, results: Callable[..., Path]) -> None:
    (curve,) = curves(power_law(make, results, -0.5))
    assert (curve.metric, [point.n_train for point in curve.points]) == ("density/kl", list(BUDGETS))
    assert curve.slope == pytest.approx(-0.5, abs=1e-9)


def test_n_star_rises_where_more_events_help(make: Any, results: Callable[..., Path]) -> None:
    folder = Path()
    for n in BUDGETS:
        folder = results(make.record(metrics=make.fit_metrics(n / 100, 0.1), n_train=n))
    (curve,) = curves(folder)
    assert (curve.metric, curve.slope) == ("fit/n_star", pytest.approx(-1.0))


def test_limits_zeros_and_single_budgets_have_no_slope(make: Any, results: Callable[..., Path]) -> None:
    assert slope_of([(1e3, 0.0, 0.1), (1e4, 1.0, 0.1)]) is None
    assert slope_of([(1e3, 1.0, 0.1), (1e3, 2.0, 0.1)]) is None
    assert curves(results(make.record())) == []
    folder = Path()
    for n in BUDGETS:
        folder = results(make.record("limited", metrics=make.fit_metrics(1e6, 0.1, censored="above"), n_train=n))
    (curve,) = curves(folder)
    assert (len(curve.points), curve.slope) == (3, None)


def test_all_files_hold_the_slope(make: Any, results: Callable[..., Path], tmp_path: Path) -> None:
    folder = power_law(make, results, -0.5)
    results(make.record("other", 0, n_train=2_000))
    write_report(folder, tmp_path / "out")
    (curve,) = json.loads((tmp_path / "out" / "summary.json").read_text())["learning_curves"]
    assert curve["slope"] == pytest.approx(-0.5)
    for ending in ("html", "md"):
        assert "-0.50 ± 0.04" in (tmp_path / "out" / f"leaderboard.{ending}").read_text()
    picture = draw_curves(curves(folder))
    assert "ratio_bce" in picture.svg
    assert picture.svg == draw_curves(curves(folder)).svg
