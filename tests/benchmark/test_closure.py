"""The closure family: oracles close, each planted defect is flagged by the row that is there for it."""

import math

import pytest
import torch

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.metrics.closure import METRICS, closure_scores
from touchneedle.benchmark.metrics.closure_points import closure_points
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.curves import curve_rows
from touchneedle.benchmark.metrics.learned_ratio import LearnedRatio, normalised_log_ratio
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

CONFIG = EvaluationConfig(n_test=10_000, n_points=1)
MORE = EvaluationConfig(n_test=20_000, n_points=1)


def context(toy, estimator, seed=0, config=CONFIG):
    return EvaluationContext(toy, estimator, config, seed)


def rows_of(toy, estimator, **options):
    return closure_scores(context(toy, estimator, **options)).metrics


def pull(row):
    return (row.value - row.at["target"]) / row.stderr


def find(rows, name, **at):
    found = [row for row in rows if row.name == name and all(row.at.get(key) == value for key, value in at.items())]
    assert found, (name, at)
    return found


def flagged(rows):
    """Names of metrics with a row more than five standard errors off; chi2 by its p-value at five sigma, W1 by its null."""
    by_value = {row.name for row in rows if row.value is not None and "target" in row.at and abs(pull(row)) > 5}
    by_chi2 = {row.name for row in rows if row.at.get("p_value", 1) < 5.7e-7}
    return (by_value - {"reweighting_chi2"}) | by_chi2 | {row.name for row in rows if row.at.get("z", 0) > 8}


@pytest.fixture(scope="module")
def bump():
    return build_toy("mass_bump")


@pytest.mark.parametrize("toy", ["gaussian_shift", "fnf_two_class"])
def test_the_oracle_closes_everywhere_and_every_metric_has_a_row(toy, plant):
    toy = build_toy(toy)
    rows = rows_of(toy, plant.oracle(toy))
    assert {row.name for row in rows} == {info.name for info in METRICS}
    assert flagged(rows) == set()
    for row in rows:
        assert row.family == "closure"
        assert row.at["reason"] if row.value is None else row.stderr is not None and row.n is not None
    assert all(abs(pull(row)) < 4.5 for row in rows if row.name in ("mean_ratio", "normalisation"))
    pairs = {(row.at["point"], row.at["to_point"]) for row in find(rows, "mean_ratio")}
    assert pairs == {(0, 1), (0, 2), (1, 0), (2, 0), (1, 2), (2, 1)}


@pytest.mark.parametrize(
    ("defect", "by"),
    [
        ("Drifts", {"mean_ratio", "normalisation", "normalisation_slope"}),
        ("Curved", {"mean_ratio", "normalisation"}),
        ("Flipped", {"reweighting_chi2", "nuisance_response", "moment_response", "interaction"}),
        ("Ignores", {"reweighting_chi2", "nuisance_response", "moment_response", "interaction"}),
        ("Factorised", {"normalisation", "interaction", "reweighting_chi2"}),
        ("Inverted", {"mean_ratio", "reweighting_chi2", "reweighting_w1", "nuisance_response", "moment_response"}),
        ("Constant", {"reweighting_chi2", "reweighting_w1", "nuisance_response", "moment_response", "interaction"}),
    ],
)
def test_each_defect_is_flagged_by_the_right_rows(defect, by, bump, plant):
    assert by <= flagged(rows_of(bump, plant.planted(getattr(plant, defect), bump), config=MORE))


def test_controls_stand_in_their_order(bump):
    def chi2(name):
        estimator = build_estimator(name, bump.spec, truth=bump).double()
        return max(row.value for row in find(rows_of(bump, estimator), "reweighting_chi2"))

    assert chi2("oracle") < 2 < chi2("oracle_narrow")


def test_local_normalisation_is_divided_out_where_the_estimator_asks_for_it(bump, plant):
    drifting, corrected = (plant.planted(defect, bump) for defect in (plant.Drifts, plant.DriftsButKnowsIt))
    assert flagged(rows_of(bump, drifting))
    assert flagged(rows_of(bump, corrected)) == set()
    x = bump.sample(bump.spec.parameters.nominal.expand(5, -1), generator=torch.Generator().manual_seed(0)).x
    theta = torch.tensor([[0.3, 1.0, -1.0], [0.4, -2.0, 0.5]], dtype=torch.float64)
    exact = torch.stack([bump.log_ratio(x, point) for point in theta], -1)
    torch.testing.assert_close(normalised_log_ratio(corrected, x, theta), exact)
    torch.testing.assert_close(LearnedRatio(corrected).between(x, theta[0], theta[1:]).log(), exact[:, 1:] - exact[:, :1])


def test_networks_in_float32_give_the_ratio_to_float32():
    toy = build_toy("gaussian_shift")
    network = build_estimator("ratio_bce", toy.spec, hidden=[8]).double()
    network.prepare(toy.sample(toy.spec.parameters.sample_prior(500, torch.Generator().manual_seed(1)), generator=torch.Generator()))
    x, theta = torch.linspace(-2, 2, 7)[:, None], torch.tensor([[0.5, 1.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    exact = normalised_log_ratio(network, x, theta)
    torch.testing.assert_close(LearnedRatio(network).between(x, theta[1], theta).log(), exact, atol=1e-5, rtol=0)
    assert network.dtype == torch.float64


def test_effective_share_and_mean_of_gaussians_in_closed_form():
    x = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    one = torch.ones(len(x), dtype=torch.float64)
    carried = Transport(x, one, torch.exp(0.8 * x[:, 0] - 0.32))
    mean, size = carried.mean_row("mean_ratio", {}), carried.size_row("effective_share", {})
    assert abs(pull(mean)) < 4
    assert mean.stderr == pytest.approx(math.sqrt(math.expm1(0.64) / 100_000), rel=0.05)
    assert abs(size.value - math.exp(-0.64)) < 4 * size.stderr
    assert carried.conclusive
    # sigma doubled: E[r^2] does not exist, and P(r > t) falls as t^(-4/3).
    wide = Transport(x, one, torch.exp(0.375 * x[:, 0] ** 2) / 2)
    assert wide.tail == pytest.approx(0.75, abs=0.12)
    assert not wide.conclusive
    assert wide.mean_row("mean_ratio", {}).at["max_share"] > 20 * carried.max_share


def test_answers_that_are_not_finite_are_counted_and_never_dropped(bump, plant):
    rows = rows_of(bump, plant.planted(plant.Breaks, bump))
    assert {row.name for row in rows} == {info.name for info in METRICS}
    for name in ("mean_ratio", "normalisation", "reweighting_chi2", "moment_response"):
        row = next(row for row in find(rows, name) if row.value is None)
        assert "not finite" in row.at["reason"]
        assert row.at["share_nonfinite"] == pytest.approx(0.1, abs=0.02)
    assert "not finite" in find(rows, "normalisation_slope")[0].at["reason"]


def test_points_are_pulled_in_until_they_overlap_the_same_for_every_estimator(plant):
    near, far = build_toy("gaussian_shift"), build_toy("gaussian_shift", s0=0.02)
    assert all(point.share == 1 for point in closure_points(context(near, plant.oracle(near))))
    points = closure_points(context(far, plant.oracle(far)))
    assert max(point.share for point in points[1:]) < 0.2
    again = closure_points(context(far, plant.planted(plant.Inverted, far)))
    assert all(bool((a.theta == b.theta).all()) for a, b in zip(points, again, strict=True))
    shares = [row.value for row in find(rows_of(far, plant.oracle(far)), "effective_share", point=0)]
    assert min(shares) > 0.1


def test_moving_supports_are_declined(plant):
    toy = build_toy("two_moons")
    rows = rows_of(toy, plant.oracle(toy))
    assert [row.name for row in rows] == [info.name for info in METRICS]
    reasons = {row.name: row.at["reason"] for row in rows}
    assert "training events" in reasons.pop("reused_share")
    assert all("supports differ" in reason for reason in reasons.values())


def test_toys_that_are_not_regular_are_judged_where_supports_agree(monkeypatch, plant):
    toy = build_toy("gaussian_shift")
    monkeypatch.setattr(type(toy), "regular", False)
    assert find(rows_of(toy, plant.oracle(toy)), "mean_ratio")[0].value == pytest.approx(1, abs=0.05)


def test_features_of_every_kind_without_a_density(plant):
    toy = plant.OddFeatures()
    rows = rows_of(toy, plant.odd(plant.OddRatio, toy))
    assert flagged(rows) == set()
    assert len(find(rows, "reweighting_chi2", feature="extra")) == 3
    responses = find(rows, "moment_response")
    assert all(row.at["feature_used"] == "extra" and row.stderr < 0.1 for row in responses)
    assert all("no exact density" in row.at["reason"] for row in rows if row.name in ("nuisance_response", "interaction"))
    flipped = rows_of(toy, plant.odd(plant.OddRatioFlipped, toy))
    for feature in ("phi", "count"):
        assert all(row.at["p_value"] < 1e-9 for row in find(flipped, "reweighting_chi2", feature=feature))
        assert all(row.at["z"] > 8 for row in find(flipped, "reweighting_w1", feature=feature))
    assert all(row.at["p_value"] > 1e-4 for row in find(flipped, "reweighting_chi2", feature="extra", point=0))


def test_finite_pools_are_halved_where_two_samples_are_compared(plant):
    toy = plant.Finite()
    rows = rows_of(toy, plant.odd(plant.FiniteRatio, toy))
    assert flagged(rows) == set()
    assert all(row.n == 10_000 for row in find(rows, "reweighting_chi2"))
    # Shared events would make the chi2 vanish.
    assert all(0.2 < row.value < 2.5 for row in find(rows, "reweighting_chi2"))
    assert all("no nuisance" in row.at["reason"] for row in rows if row.name == "moment_response")
    assert {"reweighting_chi2", "reweighting_w1"} <= flagged(rows_of(toy, plant.odd(plant.FiniteInverted, toy)))


def test_curves_still_find_the_normalised_ratio(plant):
    toy = build_toy("gaussian_shift")
    assert curve_rows(context(toy, plant.oracle(toy)))


@pytest.mark.slow
def test_false_alarms_come_at_the_stated_rate(plant):
    toy, config = build_toy("mass_bump"), EvaluationConfig(n_test=10_000, n_points=1)
    rows = [row for seed in range(120) for row in rows_of(toy, plant.oracle(toy), seed=seed, config=config)]
    p_values = [row.at["p_value"] for row in find(rows, "reweighting_chi2", point=0)]
    for level in (0.05, 0.5):
        rate = sum(p < level for p in p_values) / len(p_values)
        assert abs(rate - level) < 4 * math.sqrt(level * (1 - level) / len(p_values))
    for name in ("mean_ratio", "normalisation", "moment_response"):
        pulls = torch.tensor(
            [pull(row) for row in find(rows, name) if row.value is not None and row.stderr and row.at.get("where") != "nominal"]
        )
        assert float((pulls.abs() > 2).double().mean()) < 0.08
        assert float(pulls.abs().max()) < 5
