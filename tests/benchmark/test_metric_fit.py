"""The fit metrics on controls with planted errors, and where they have nothing to say."""

import math

import pytest
import torch

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.metrics.averages import mean_and_error, median_and_error, share_and_error, width_and_error
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.fit import NAMES, WITHOUT_REGULARITY, fit_scores
from touchneedle.estimators.base import build_estimator
from touchneedle.inference.fit import step_sizes
from touchneedle.toys.base import Events, Feature, FiniteToy, Parameter, ParameterSpace, ToySpec, Uniform, build_toy

A, SHIFT = 0.05, 0.5
CONFIG = EvaluationConfig(n_experiments=50, n_points=1, n_events=(100, 1_000), n_pool=10_000)


def sigma(n):
    """Oracle sigma of ``shift`` in gaussian_shift: the location, and its constrained offset."""
    return math.sqrt(1 / n + A**2)


def context(name, toy=None, config=CONFIG, seed=0):
    toy = build_toy("gaussian_shift") if toy is None else toy
    return EvaluationContext(toy, build_estimator(name, toy.spec, truth=toy).double(), config, seed)


def fit_metrics(chosen):
    scores = fit_scores(chosen)
    return scores.metrics, scores.tables.get("fits", [])


@pytest.fixture(scope="module")
def results():
    return {name: fit_metrics(context(name)) for name in ("oracle", "oracle_shifted", "oracle_narrow")}


def find(rows, name, **at):
    found = [row for row in rows if row.name == name and all(row.at.get(key) == value for key, value in at.items())]
    assert len(found) == 1, (name, at, len(found))
    return found[0]


def test_every_row_has_an_error_or_a_reason(results):
    for rows, _ in results.values():
        assert {row.name for row in rows} == set(NAMES)
        for row in rows:
            assert row.value is not None or row.at["reason"]
            assert row.family == "fit"
            assert row.value is None or (row.stderr is not None and row.n)


def test_oracle_is_unbiased_has_unit_pulls_and_covers(results):
    rows, _ = results["oracle"]
    for n in (100, 1_000):
        for parameter in ("shift", "offset", "log_scale"):
            at = {"parameter": parameter, "n_events": n}
            assert find(rows, "bias_vs_oracle", **at).value == 0
            assert find(rows, "width_vs_oracle", **at).value == 1
            for name in ("bias", "pull_mean", "pull_width"):
                row = find(rows, name, **at)
                assert abs(row.value - row.at["target"]) < 4 * row.stderr
        for name in ("coverage_68", "coverage_95"):
            row = find(rows, name, n_events=n)
            assert row.at["network"] == "frozen"
            assert abs(row.value - row.at["target"]) < 4 * row.stderr
        assert find(rows, "failed_fits", n_events=n).value == 0
        assert find(rows, "surface_error", n_events=n).value < 0.05
    star = find(rows, "n_star")
    assert (star.value, star.at["censored"], star.direction) == (1_000_000, "above", "higher")
    assert find(rows, "mean_score").value == 0


def test_planted_shift_is_found_by_every_measure_of_bias(results):
    rows, _ = results["oracle_shifted"]
    delta = SHIFT * sigma(1_000)
    for n in (100, 1_000):
        row = find(rows, "bias_vs_oracle", parameter="shift", n_events=n)
        # The control takes its own sigma from 20,000 events (1 %), the mean Hessian sigma differs by as little.
        assert row.value == pytest.approx(-delta / sigma(n), rel=0.03)
        assert abs(find(rows, "bias_vs_oracle", parameter="offset", n_events=n).value) < 1e-3
        assert find(rows, "width_vs_oracle", parameter="shift", n_events=n).value == pytest.approx(1, abs=1e-3)
    assert find(rows, "mean_score").value == pytest.approx(-SHIFT, rel=0.03)
    star = find(rows, "n_star")
    # sigma(n*) = delta / 0.2
    assert star.value == pytest.approx(1 / ((delta / 0.2) ** 2 - A**2), rel=0.06)
    assert "censored" not in star.at


def test_planted_narrowness_is_found_by_width_and_not_by_bias(results):
    rows, _ = results["oracle_narrow"]
    for n in (100, 1_000):
        row = find(rows, "width_vs_oracle", parameter="shift", n_events=n)
        assert row.value == pytest.approx(math.sqrt((0.81 / n + A**2) / (1 / n + A**2)), abs=0.005)
        bias = find(rows, "bias_vs_oracle", parameter="shift", n_events=n)
        assert abs(bias.value) < 4 * bias.stderr + 0.005
    assert find(rows, "n_star").value > 3_000


def test_experiments_are_the_same_for_every_estimator(results):
    tables = [table for _, table in results.values()]
    assert all(len(table) == 2 * 50 * 3 for table in tables)
    columns = [[(row["experiment"], row["parameter"], row["n_observed"], row["oracle_value"]) for row in table] for table in tables]
    assert columns[0] == columns[1] == columns[2]
    row = tables[1][0]
    assert (row["parameter"], row["truth"], row["oracle_valid"]) == ("shift", 0.0, True)
    assert row["t"] is not None
    assert tables[1][1]["t"] is None


def test_same_seed_gives_the_same_rows():
    small = EvaluationConfig(n_experiments=5, n_points=1, n_events=(100,), n_pool=1_000)
    first, second = (fit_metrics(context("oracle_shifted", config=small, seed=3))[0] for _ in range(2))
    assert [row for row in first if row.family == "fit"] == [row for row in second if row.family == "fit"]


def test_toys_that_are_not_regular_say_so():
    toy = build_toy("two_moons")
    rows, table = fit_metrics(context("oracle", toy))
    assert {row.name for row in rows} == set(NAMES)
    assert all(row.value is None and "not regular" in row.at["reason"] for row in rows if row.name not in WITHOUT_REGULARITY)
    assert table == []


class Counted(FiniteToy):
    """A fixed sample of signal N(0, 1) and background N(2, 1) with weights; POI mu on the signal."""

    def __init__(self, sign=1.0):
        mu = Parameter("mu", "interest", 1.0, (0.0, 5.0), Uniform(0.1, 3.0))
        self.spec = ToySpec("counted", "1", ParameterSpace((mu,)), (Feature("x"),), ("signal", "background"))
        generator = torch.Generator().manual_seed(5)
        label = (torch.arange(4_000) % 2).long()
        x = torch.randn(4_000, 1, generator=generator) + 2.0 * label[:, None]
        weight = torch.where(label == 0, 0.15, 0.35).double()
        weight[0] *= sign
        self.events = Events(x, torch.ones(4_000, 1, dtype=torch.float64), weight, label)

    def rates(self, theta):
        return torch.stack([300 * theta[:, 0], 700 + 0 * theta[:, 0]], -1)

    def pool(self, split):
        return self.events

    def reweight(self, events, theta):
        return events.weight * torch.where(events.label == 0, theta[..., 0], 1.0)


@pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")
def test_weighted_pools_without_oracle():
    toy = Counted()
    estimator = build_estimator("template_histogram", toy.spec)
    estimator.prepare(toy.events)
    small = EvaluationConfig(n_experiments=50, n_points=2, n_events=(200,), n_pool=1)
    rows, table = fit_metrics(EvaluationContext(toy, estimator.double(), small, 0))
    for name in ("bias_vs_oracle", "width_vs_oracle"):
        row = find(rows, name, point=0)
        assert row.value is None
        assert "no exact density" in row.at["reason"]
    bias = find(rows, "bias", point=0)
    assert bias.at["unit"] == "own_sigma"
    assert bias.value is not None
    # 200 events of an effective 3,400: all experiments share a pool error of 0.24 sigma.
    assert bias.stderr > math.sqrt(200 / 4_000)
    assert find(rows, "n_star", point=0).at["reference"] == "truth"
    assert table[0]["oracle_value"] is None


def test_pools_with_negative_weights_are_declined_with_a_reason():
    toy = Counted(sign=-1.0)
    estimator = build_estimator("template_histogram", toy.spec)
    estimator.prepare(Counted().events)
    rows, table = fit_metrics(EvaluationContext(toy, estimator.double(), CONFIG, 0))
    assert table == []
    elsewhere = ("training_spread", "solutions", "solution_shift")
    assert all(row.value is None and "weights >= 0" in row.at["reason"] for row in rows if row.name not in elsewhere)


def test_set_level_estimators_are_declined_with_a_reason():
    chosen = context("oracle")
    chosen.estimator.additive = False
    rows, _ = fit_metrics(chosen)
    assert all("additive=False" in row.at["reason"] for row in rows)


def test_averages_against_closed_forms():
    values = torch.randn(4_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, error = mean_and_error(values)
    assert abs(mean) < 4 * error
    assert error == pytest.approx(1 / math.sqrt(4_000), rel=0.05)
    assert mean_and_error(values, shared=0.02)[1] == pytest.approx(math.sqrt(0.02), rel=0.05)
    width, error = width_and_error(values)
    assert abs(width - 1) < 4 * error
    assert error == pytest.approx(1 / math.sqrt(2 * 4_000), rel=0.1)
    assert median_and_error(values, torch.Generator().manual_seed(2))[1] == pytest.approx(math.sqrt(math.pi / 2 / 4_000), rel=0.2)
    share, error = share_and_error(torch.ones(50, dtype=torch.bool))
    assert share == 1
    assert 0.005 < error < 0.03
    assert all(math.isnan(value) for value in mean_and_error(values[:1]))


def test_step_sizes_follow_the_prior():
    assert torch.allclose(step_sizes(build_toy("gaussian_shift").spec.parameters)[:1], torch.tensor([0.0683]).double(), atol=1e-3)
