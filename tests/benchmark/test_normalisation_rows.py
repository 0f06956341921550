"""Normalisation and nuisance rows against closed forms of Gaussians; scores that are no gradients."""

import math

import pytest
import torch

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.metrics import circulation, interaction, normalisation_rows, nuisance_response
from touchneedle.benchmark.metrics.closure_points import closure_points
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.integral import integral_at_nominal
from touchneedle.benchmark.metrics.learned_ratio import LearnedRatio
from touchneedle.benchmark.metrics.normalisation_rows import covariance_at_nominal, slope_row
from touchneedle.benchmark.metrics.nuisance_points import anchors, joint_points
from touchneedle.benchmark.metrics.nuisance_response import regress
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

CONFIG = EvaluationConfig(n_test=20_000, n_points=1)


@pytest.fixture(scope="module")
def toy():
    return build_toy("gaussian_shift")


def context(toy, estimator, seed=0):
    return EvaluationContext(toy, estimator, CONFIG, seed)


def normalisation(toy, estimator, **options):
    chosen = context(toy, estimator, **options)
    return normalisation_rows.rows(chosen, LearnedRatio(chosen.estimator))


def pull(row):
    return (row.value - row.at["target"]) / row.stderr


def test_planted_drift_is_measured_where_it_is(toy, plant):
    rows = normalisation(toy, plant.planted(plant.Drifts, toy))
    (anchor,) = [row for row in rows if row.at.get("theta") == "offset=1"]
    assert abs(anchor.value - math.exp(0.02)) < 4 * anchor.stderr
    joint = [row for row in rows if row.at.get("where") == "joint"]
    assert [row.at["theta"] for row in joint] == ["offset=1.5, log_scale=1.5", "offset=1.5, log_scale=-1.5"]
    assert all(abs(row.value - math.exp(0.03)) < 4 * row.stderr for row in joint)
    slopes = {row.at["parameter"]: row for row in rows if row.name == "normalisation_slope"}
    # n d ln Z / d offset sigma = 1000 x 0.02 x 1: the free shift takes all that the data say of the offset.
    assert slopes["offset"].value == pytest.approx(20, rel=1e-3)
    assert abs(slopes["shift"].value) < 1e-6


def test_slope_without_truth_has_the_error_of_its_events(monkeypatch, toy, plant):
    monkeypatch.setattr(normalisation_rows, "zero_mean_score", lambda context, events: (None, "none"))
    rows = {
        row.at["parameter"]: row
        for row in normalisation(toy, plant.planted(plant.Drifts, toy), seed=3)
        if row.name == "normalisation_slope"
    }
    assert rows["offset"].stderr == pytest.approx(1_000 * 0.05 / math.sqrt(20_000), rel=0.05)
    assert abs(rows["offset"].value - 20) < 4 * rows["offset"].stderr
    sigma = math.sqrt(1 / 1_000 + 0.05**2)
    assert rows["shift"].stderr == pytest.approx(1_000 * sigma / math.sqrt(20_000), rel=0.05)


def test_local_normalisation_takes_the_drift_from_the_slope(toy, plant):
    rows = [row for row in normalisation(toy, plant.planted(plant.DriftsButKnowsIt, toy)) if row.name == "normalisation_slope"]
    assert all(abs(row.value) < 1e-3 for row in rows)


def test_covariance_is_the_oracles_with_constraints_and_rates(toy):
    x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nominal = toy.spec.parameters.nominal.expand(len(x), -1)
    covariance = covariance_at_nominal(toy, toy.score(x, nominal), torch.ones(len(x)))
    # log_scale: n 2 b^2 = 20 from the data and 1 from the constraint.
    expected = torch.tensor([1 / 1_000 + 0.05**2, 1.0, 1 / 21], dtype=torch.float64)
    torch.testing.assert_close(covariance.diagonal(), expected, rtol=0.02, atol=0)


def test_a_control_variate_keeps_the_mean_and_takes_the_noise():
    generator = torch.Generator().manual_seed(4)
    control = torch.randn(50_000, generator=generator, dtype=torch.float64)
    score = 0.01 + 2 * control + 0.1 * torch.randn(50_000, generator=generator, dtype=torch.float64)
    plain, controlled = (slope_row("s", score, c, torch.ones(50_000), 1.0, {}) for c in (None, control))
    assert abs(pull(plain) - 0.01 / plain.stderr) < 4
    assert abs(controlled.value - 0.01) < 4 * controlled.stderr
    assert controlled.stderr == pytest.approx(0.1 / math.sqrt(50_000), rel=0.05)


@pytest.mark.parametrize("name", ["gaussian_shift", "mass_bump", "fnf_two_class"])
def test_a_density_with_a_wrong_constant_is_found_at_nominal(name, plant):
    chosen = build_toy(name)
    (right,) = integral_at_nominal(context(chosen, plant.oracle(chosen)))
    (wrong,) = integral_at_nominal(context(chosen, plant.planted(plant.Scaled, chosen)))
    assert right.value == pytest.approx(1, abs=1e-5)
    assert wrong.value == pytest.approx(1.1, abs=1e-5)
    assert abs(pull(wrong)) > 5


def test_the_integral_from_own_samples_needs_no_truth(monkeypatch, plant):
    chosen = build_toy("fnf_two_class")
    monkeypatch.setattr("touchneedle.benchmark.metrics.integral.ExactToy", plant.OddFeatures)
    for defect, expected in ((plant.Rotated, 1.0), (plant.Scaled, 1.1)):
        (row,) = integral_at_nominal(context(chosen, plant.planted(defect, chosen)))
        assert row.at["method"] == "own samples"
        assert abs(row.value - expected) < 4 * row.stderr
        assert row.stderr < 0.02


def test_nuisance_points_lie_at_anchors_and_beyond_them_together(toy):
    space = toy.spec.parameters
    assert [point.at["theta"] for point in anchors(space)] == ["offset=-1", "offset=1", "log_scale=-1", "log_scale=1"]
    assert all(float(point.theta[0]) == 0 for point in joint_points(space))


def test_nuisance_response_of_planted_defects(toy, plant):
    def response(estimator):
        chosen = context(toy, estimator)
        found = nuisance_response.rows(chosen, LearnedRatio(estimator))
        return {(row.name, row.at["theta"]): row for row in found}

    for defect, expected in ((plant.Flipped, -1.0), (plant.Ignores, 0.0), (plant.Planted, 1.0)):
        rows = response(plant.planted(defect, toy))
        exact, moment = rows["nuisance_response", "offset=1"], rows["moment_response", "offset=1"]
        assert exact.value == pytest.approx(expected, abs=1e-2)
        assert abs(moment.value - expected) < 4 * moment.stderr + 0.01
        assert moment.stderr < 0.05
        assert rows["nuisance_response", "log_scale=1"].value == pytest.approx(1)
    narrow = response(build_estimator("oracle_narrow", toy.spec, truth=toy).double())
    assert narrow["nuisance_response", "offset=1"].value == pytest.approx(1 / 0.81)


def test_regression_errors_allow_for_any_spread():
    generator = torch.Generator().manual_seed(5)
    slopes, errors = [], []
    for _ in range(300):
        x = torch.randn(400, generator=generator, dtype=torch.float64)
        y = 0.5 + 2 * x + x.abs() * torch.randn(400, generator=generator, dtype=torch.float64)
        line = regress(x, y, torch.ones(400))
        slopes.append(line.slope)
        errors.append(line.slope_stderr)
    slopes = torch.tensor(slopes)
    assert abs(float(slopes.mean()) - 2) < 4 * float(slopes.std()) / math.sqrt(300)
    assert sum(errors) / 300 == pytest.approx(float(slopes.std()), rel=0.15)


def test_interaction_is_seen_where_it_is_and_missed_where_dropped(toy, plant):
    def slopes(defect):
        chosen = context(toy, plant.planted(defect, toy))
        return {row.at["pair"]: row for row in interaction.rows(chosen, LearnedRatio(chosen.estimator), closure_points(chosen))}

    right, dropped = slopes(plant.Planted), slopes(plant.Factorised)
    assert list(right) == ["shift x offset", "shift x log_scale", "offset x log_scale"]
    assert all(row.value == pytest.approx(1) for row in right.values())
    assert all(row.value == pytest.approx(0, abs=1e-9) for row in dropped.values())
    # log r(s, o) - log r(s) - log r(o) = -a s o for a Gaussian location: a constant.
    shift = float(closure_points(context(toy, plant.oracle(toy)))[1].theta[0])
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    both = (shift + 0.05) * x - 0.5 * (shift + 0.05) ** 2
    assert right["shift x offset"].at["rms_share"] == pytest.approx(0.05 * abs(shift) / float(both.square().mean().sqrt()), rel=0.03)


def test_circulation_of_a_swirl_in_closed_form(toy, plant):
    rows = circulation.rows(context(toy, plant.planted(plant.Swirls, toy)))
    loops = {row.at["pair"]: row for row in rows if row.name == "circulation"}
    a, _, c, _ = circulation.rectangle(toy.spec.parameters, (0, 1))
    area = float((c - a)[0] * (c - a)[1])
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    half = toy.log_prob(x[:, None], c) - toy.log_prob(x[:, None], a) + 0.5 * area
    # Curl 2 x 0.5 over the rectangle; half of the way around sees half of it.
    row = loops["shift x offset"]
    assert abs(row.value - area / float(half.square().mean().sqrt())) < 4 * row.stderr + 0.01
    assert row.value > 5 * row.stderr
    means = [row for row in rows if row.name == "score_mean"]
    assert [row.at["parameter"] for row in means] == list(toy.spec.parameters.names)
    assert all(abs(row.value) < 1e-6 for row in means)


def test_a_true_score_has_no_circulation_and_gradients_need_no_test(toy, plant):
    rows = circulation.rows(context(toy, plant.planted(plant.Rotated, toy)))
    assert all(row.value < 1e-6 for row in rows if row.name == "circulation")
    assert all("gradient" in row.at["reason"] for row in circulation.rows(context(toy, plant.oracle(toy))))
    assert all("no score" in row.at["reason"] for row in circulation.rows(context(toy, plant.planted(plant.Planted, toy))))
