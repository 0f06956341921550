"""Curves behind the pictures: slices, responses, pulls and closure of the exact answer and of answers known to be wrong."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.metrics.closure import closure_scores
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.curves import SCAN_CEILING, curve_rows
from touchneedle.benchmark.metrics.pulls import BINS, histogram_rows
from touchneedle.benchmark.metrics.responses import response_rows
from touchneedle.benchmark.metrics.slices import SLICE_POINTS, slice_rows
from touchneedle.benchmark.store import CURVE_COLUMNS, write_table
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

LIMIT = 10_000


def control(name, toy, seed=0, **options):
    config = EvaluationConfig(**{"n_test": 10_000, "n_posterior": 30, "n_experiments": 20, "n_pool": 2_000} | options)
    return EvaluationContext(toy, build_estimator(name, toy.spec, truth=toy).double(), config, seed)


def seeded():
    return torch.Generator().manual_seed(1)


def lines(rows, curve=None):
    """(who, axis, place) -> list of (x, y, low, high)."""
    found = {}
    for row in rows:
        if curve in (None, row["curve"]):
            found.setdefault(tuple(row["series"].split(", ")), []).append((row["x"], row["y"], row["low"], row["high"]))
    return found


@pytest.fixture(scope="module")
def bump():
    return build_toy("mass_bump")


def test_a_slice_is_the_exact_log_ratio_along_one_feature(bump):
    found = lines(slice_rows(control("oracle_narrow", bump)))
    (exact,) = [points for key, points in found.items() if key[0] == "exact"]
    ((_, axis, place),) = [key for key in found if key[0] == "estimator"]
    assert axis == "mass [GeV]"
    theta = bump.spec.parameters.nominal.clone()
    theta[0] = bump.spec.parameters.parameters[0].prior.from_normal(torch.ones(()))
    assert float(bump.log_ratio(bump.sample(bump.spec.parameters.nominal.expand(2_000, -1), generator=seeded()).x, theta).std()) < 2
    assert place == f"fraction={float(theta[0]):.4g}"
    x = torch.tensor([point[0] for point in exact])[:, None]
    assert len(x) == SLICE_POINTS
    assert [point[1] for point in exact] == pytest.approx(bump.log_ratio(x, theta).tolist(), abs=1e-5)
    narrow = found["estimator", axis, place]
    assert [point[1] for point in narrow] == pytest.approx([point[1] / 0.81 for point in exact], abs=1e-6)


def test_a_narrow_likelihood_is_found_and_sliced_near_by():
    here = control("oracle", build_toy("two_moons"))
    scan = lines(curve_rows(here), "scan")["exact",]
    near = [x for x, y, _, _ in scan if y < SCAN_CEILING]
    assert len(near) > 0.5 * len(scan), "most of the points lie where the likelihood is"
    assert all(abs(y) < 30 for points in lines(slice_rows(here)).values() for _, y, _, _ in points)


def test_pictures_of_several_seeds_have_the_same_points(bump):
    for rows in (slice_rows, response_rows):
        assert rows(control("oracle", bump, seed=1)) == rows(control("oracle", bump, seed=2))


def test_responses_of_the_exact_answer_and_of_one_that_is_too_strong(bump):
    exact, narrow = lines(response_rows(control("oracle", bump))), lines(response_rows(control("oracle_narrow", bump)))
    assert {key[1:] for key in exact} == {(name, way) for name in ("mass_scale", "resolution") for way in ("up", "down")}
    for (who, *place), points in exact.items():
        sign = 1 if place[1] == "up" else -1
        anchor = points[-3]  # nine points over twice the range of the anchors
        assert sign * anchor[1] > 0
        if who == "estimator":
            assert points == [(x, y, y, y) for x, y, _, _ in exact["exact", *place]]
            strong = narrow["estimator", *place]
            assert [y for _, y, _, _ in strong] == pytest.approx([y / 0.81 for _, y, _, _ in points])
            assert all(high > low for x, _, low, high in strong if abs(x - points[4][0]) > 1e-9)


def test_a_toy_without_nuisances_has_no_response(bump):
    assert response_rows(control("oracle", build_toy("two_moons"))) == []


def test_pulls_are_a_density_with_wilson_bands():
    n = 400
    pull = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    rows = histogram_rows("mu, n_events=100", pull)
    assert sum(row["y"] for row in rows) * 8 / BINS == pytest.approx(1)
    outside = [row for row in rows if not row["low"] <= norm.pdf(row["x"]) <= row["high"]]
    assert len(outside) <= 2, "the exact quantiles of a normal distribution, but for the width of the bins"
    for row in rows:
        count = round(row["y"] * 8 / BINS * n)
        interval = binomtest(count, n).proportion_ci(math.erf(1 / math.sqrt(2)), "wilson")
        assert (row["low"] / 2, row["high"] / 2) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert histogram_rows("mu", pull[:1]) == []
    assert histogram_rows("mu", torch.tensor([9.0, -9.0]))[0]["y"] == 1.0


def test_closure_curves_are_flat_for_the_exact_answer_alone():
    toy = build_toy("fnf_two_class")

    def chi2(name):
        found = lines(closure_scores(control(name, toy, n_test=40_000)).curves, "closure")
        return {key[0]: sum(((y - 1) / (high - y)) ** 2 for _, y, _, high in points) / len(points) for key, points in found.items()}

    exact, narrow = chi2("oracle"), chi2("oracle_narrow")
    assert set(exact) == set(narrow) == {feature.name for feature in toy.spec.features}
    assert all(value < 2.5 for value in exact.values())
    assert max(narrow.values()) > 5


@pytest.mark.parametrize("toy", ["fnf_two_class", "many_nuisances"])
def test_all_curves_of_a_run_fit_into_ten_kilobytes(toy, tmp_path):
    here = control("oracle_narrow", build_toy(toy))
    scores = evaluate(here.toy, here.estimator, here.config, 0)
    loss = [{"curve": "loss", "series": name, "x": k, "y": 1 / (k + 1), "low": None, "high": None} for name in "tv" for k in range(40)]
    write_table(tmp_path / "curves.parquet", loss + scores.curves, CURVE_COLUMNS)
    assert {"slice", "response", "closure", "pull", "sbc"} <= {row["curve"] for row in scores.curves}
    assert (tmp_path / "curves.parquet").stat().st_size < LIMIT
