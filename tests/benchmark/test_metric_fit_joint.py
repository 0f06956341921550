"""Worst case, interval score, retrained coverage and number of solutions, on planted errors and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.benchmark.config import EvaluationConfig, parse_config
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.fit import fit_scores
from touchneedle.benchmark.metrics.fit_cells import Cell, Outcome, fit_point
from touchneedle.benchmark.metrics.interval_score import interval_score, interval_score_row
from touchneedle.benchmark.metrics.minima import minima_rows
from touchneedle.benchmark.metrics.retrained import clustered_share, retrained_scores, spread_and_error
from touchneedle.benchmark.metrics.worst import mean_p_value, sidak, worst_rows
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.control import TruthControl
from touchneedle.toys.base import Events, ExactToy, Feature, Parameter, ParameterSpace, ToySpec, Uniform, build_toy

LEVELS = {"coverage_68": math.erf(1 / math.sqrt(2)), "coverage_95": math.erf(2 / math.sqrt(2))}


def outcome(point=0, bias=((0.0, 0.1),), covered=None, length=None, holds=None, valid=None, pairs=200):
    """An outcome at will; all intervals of length 1 hold the truth unless said."""
    n = 200 if length is None else len(length)
    every = torch.ones(n, dtype=torch.bool)
    covered = torch.ones(n, len(bias), dtype=torch.bool) if covered is None else covered
    return Outcome(
        point=point,
        n_events=1_000,
        parameters=tuple(f"mu{k}" for k in range(len(bias))),
        unit="oracle_sigma",
        bias=bias,
        pairs=pairs,
        covered=dict.fromkeys(LEVELS, covered),
        length=torch.ones(n).double() if length is None else length,
        holds=every if holds is None else holds,
        valid=every if valid is None else valid,
    )


def named(rows, name, **at):
    (found,) = [row for row in rows if row.name == name and all(row.at.get(key) == value for key, value in at.items())]
    return found


# Worst case.


def test_worst_bias_finds_the_planted_point_and_parameter():
    outcomes = [outcome(0, ((0.02, 0.05), (-0.01, 0.05))), outcome(2, ((0.1, 0.05), (-0.31, 0.06)))]
    row = named(worst_rows(outcomes, 3), "worst_bias")
    assert (row.value, row.stderr, row.direction) == (0.31, 0.06, "lower")
    assert (row.at["worst_point"], row.at["worst_parameter"], row.at["comparisons"], row.at["missing_points"]) == (2, "mu1", 4, 1)
    assert row.at["p_value"] == pytest.approx(1 - (1 - 2 * stats.t.sf(0.31 / 0.06, 199)) ** 4, rel=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_corrected_p_values_are_uniform_for_independent_points_and_larger_for_others(correlation):
    draw = np.random.default_rng(1).standard_normal
    z = math.sqrt(1 - correlation) * draw((800, 6)) + math.sqrt(correlation) * draw((800, 1))
    p_values = np.array([sidak(min(mean_p_value(value, 1.0, 10**6) for value in row), 6) for row in z])
    if correlation == 0:
        assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    assert (p_values < 0.05).mean() < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 800)


def test_worst_coverage_is_exact_and_simultaneous():
    few = torch.zeros(200, 1, dtype=torch.bool)
    few[:120] = True
    usual = torch.zeros(200, 1, dtype=torch.bool)
    usual[:137] = True
    row = named(worst_rows([outcome(0, covered=usual), outcome(1, covered=few)], 2), "worst_coverage", level=0.6827)
    assert (row.value, row.at["worst_point"], row.at["target"]) == (0.6, 1, 0.6827)
    assert row.at["p_value"] == pytest.approx(2 * stats.binomtest(120, 200, LEVELS["coverage_68"]).pvalue)
    tail = (1 - LEVELS["coverage_95"]) / 2 / 2
    assert row.at["low"] == pytest.approx(stats.beta.ppf(tail, 120, 81))
    assert row.at["high"] == pytest.approx(stats.beta.isf(tail, 121, 80))


def test_worst_case_of_an_exact_zero_and_of_nothing():
    row = named(worst_rows([outcome(bias=((0.0, 0.0),))], 1), "worst_bias")
    assert (row.value, row.at["p_value"]) == (0.0, 1.0)
    nothing = outcome(bias=((math.nan, math.nan),), covered=torch.zeros(0, 1, dtype=torch.bool), valid=torch.zeros(200, dtype=torch.bool))
    assert all(row.value is None and row.at["reason"] for row in worst_rows([nothing], 1))
    assert interval_score_row([nothing], torch.Generator()).value is None


# Interval score.


@pytest.mark.parametrize(
    ("coverage", "penalty"),
    [(0.6827, 1.0), (0.6827 + 1.9 * 0.014718, 1.0), (0.60, 1 + 3.6189**4), (0.75, 1 + 2.5727**3), (0.0, 1 + (0.6827 / 0.014718 - 2) ** 4)],
)
def test_interval_score_by_hand(coverage, penalty):
    # sigma_68 = sqrt(0.6827 0.3173 / 1000) = 0.014718
    value = interval_score(torch.tensor([0.5]).double(), torch.tensor([coverage]).double(), 1_000)
    assert float(value) == pytest.approx(-math.log(0.501 * penalty), abs=1e-3)


def test_interval_score_of_gaussian_intervals():
    generator = torch.Generator().manual_seed(3)
    outcomes = []
    for point in range(4):
        pull = torch.randn(500, generator=generator, dtype=torch.float64)
        outcomes.append(outcome(point, length=torch.full((500,), 0.2, dtype=torch.float64), holds=pull.abs() <= 1))
    row = interval_score_row(outcomes, generator)
    assert row.at["n_intervals"] == row.n == 2_000
    assert abs(row.value + math.log(0.201)) < max(4 * row.stderr, 0.05)
    assert row.direction == "higher"
    shorter = [replace(one, length=0.5 * one.length, holds=one.holds & (torch.arange(500) % 10 > 4)) for one in outcomes]
    assert interval_score_row(shorter, generator).value < row.value - 4


def test_failed_fits_miss_and_have_no_length():
    length = torch.full((1_000,), 0.2, dtype=torch.float64)
    holds = torch.arange(1_000) < 683
    valid = torch.arange(1_000) < 900
    row = interval_score_row([outcome(length=length * valid, holds=holds & valid, valid=valid)], torch.Generator().manual_seed(0))
    assert row.value == pytest.approx(-math.log(0.201), abs=1e-9)
    worse = interval_score_row(
        [outcome(length=length * valid, holds=holds & valid & (torch.arange(1_000) > 99), valid=valid)], torch.Generator()
    )
    assert worse.value < row.value - 4


# Failures.


def test_values_of_failed_fits_enter_no_average():
    toy = build_toy("gaussian_shift")
    config = EvaluationConfig(n_experiments=30, n_points=1, n_events=(100,), n_pool=2_000)
    context = EvaluationContext(toy, build_estimator("oracle_narrow", toy.spec, truth=toy).double(), config, 0)
    (cell,) = fit_point(context, 0, context.points[0])
    failed = torch.arange(30) < 6

    def spoiled(nonsense):
        theta, sigma, t_true = cell.fits.theta.clone(), cell.fits.sigma.clone(), cell.fits.t_true.clone()
        theta[failed] = sigma[failed] = t_true[failed] = nonsense
        return Cell(context, 0, cell.experiments, replace(cell.fits, theta=theta, sigma=sigma, t_true=t_true, valid=~failed), cell.oracle)

    rows = [spoiled(nonsense).rows() for nonsense in (math.nan, 1e9)]
    assert [row.model_dump() for row in rows[0]] == [row.model_dump() for row in rows[1]]
    assert named(rows[0], "failed_fits").value == pytest.approx(0.2)
    assert abs(named(rows[0], "bias", parameter="shift").value) < 4 * named(rows[0], "bias", parameter="shift").stderr
    first, second = (spoiled(nonsense).outcome() for nonsense in (math.nan, 1e9))
    assert torch.equal(first.length, second.length)
    assert torch.equal(first.holds, second.holds)


# Retrained networks.


class Shifted(TruthControl):
    """The exact log_ratio with ``shift`` moved by a fixed amount: one training of a method with known luck."""

    def __init__(self, toy, move):
        super().__init__(toy.spec, None, toy)
        self.move = torch.tensor([move, 0.0, 0.0], dtype=torch.float64)

    def _log_ratio(self, x, theta):
        low, high = self.spec.parameters.low, self.spec.parameters.high
        return self.exact_log_ratio(x, (theta + self.move).clamp(low, high), self.nominal)


SIGMA = math.sqrt(1 / 1_000 + 0.05**2)


def retrained(spread, networks, seed=0, n_experiments=40):
    toy = build_toy("gaussian_shift")
    config = EvaluationConfig(n_experiments=n_experiments, n_points=1, n_events=(1_000,), n_pool=10_000, retrain=networks)
    moves = spread * SIGMA * torch.randn(networks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    context = EvaluationContext(toy, Shifted(toy, 0.0), config, seed, lambda k: Shifted(toy, float(moves[k])))
    return retrained_scores(context).metrics, moves / SIGMA


def test_retrained_coverage_has_the_closed_form_of_a_random_bias():
    spread = 1.5
    rows, moves = retrained(spread, networks=16)
    # theta - truth ~ N(0, 1 + spread^2) in units of sigma, over networks and experiments.
    for name, cut in (("coverage_68", 1), ("coverage_95", 2)):
        row = named(rows, name)
        assert row.at["network"] == "retrained"
        assert abs(row.value - math.erf(cut / math.sqrt(2 * (1 + spread**2)))) < 4 * row.stderr
        # Clustered: far more than 16 x 40 independent entries would have.
        assert row.stderr > 2 * math.sqrt(row.value * (1 - row.value) / row.n)
    bias = named(rows, "bias_vs_oracle")
    assert bias.value == pytest.approx(-float(moves.mean()), abs=0.03)
    assert bias.stderr == pytest.approx(float(moves.std()) / math.sqrt(16), rel=0.03)
    row = named(rows, "training_spread")
    assert row.value == pytest.approx(float(moves.std()), rel=0.03)
    assert row.stderr == pytest.approx(row.value / math.sqrt(2 * 15), rel=0.1)


def test_spread_is_freed_of_the_noise_of_the_fits_and_its_error_holds():
    draw = np.random.default_rng(2).standard_normal
    found = []
    for _ in range(300):
        values = torch.tensor(0.3 * draw(40) + 0.2 * draw(40))
        found.append(spread_and_error(values, torch.full((40,), 0.2, dtype=torch.float64)))
    squares = np.array([spread**2 for spread, _ in found])
    # Unbiased in the square but for the few cut at zero.
    assert abs(squares.mean() - 0.09) < 0.01
    assert np.mean([abs(spread - 0.3) < 2 * error for spread, error in found]) > 0.9
    zero = [spread_and_error(torch.tensor(0.2 * draw(12)), torch.full((12,), 0.2, dtype=torch.float64)) for _ in range(400)]
    # At zero one error is one error (20,000 repetitions give 70 %), two are not two.
    assert abs(np.mean([spread < error for spread, error in zero]) - 0.70) < 4 * 0.023


def test_error_of_a_clustered_share_is_at_least_binomial():
    share, error = clustered_share([torch.ones(50, dtype=torch.float64)] * 10)
    assert share == 1
    assert error > 0


def test_failed_trainings_are_counted_and_reasons_given():
    toy = build_toy("gaussian_shift")
    config = EvaluationConfig(n_experiments=10, n_points=1, n_events=(100,), n_pool=1_000, retrain=10)

    def train(k):
        if k % 3 == 0:
            raise InputError("loss became infinite")
        return Shifted(toy, 0.0)

    context = EvaluationContext(toy, Shifted(toy, 0.0), config, 0, train)
    row = named(retrained_scores(context).metrics, "coverage_68")
    assert (row.at["networks"], row.at["failed_networks"]) == (6, 4)

    def never(k):
        raise InputError("loss became infinite")

    rows = retrained_scores(replace(context, retrain=never)).metrics
    assert all(row.value is None and "loss became infinite" in row.at["reason"] for row in rows)
    rows = retrained_scores(replace(context, retrain=None)).metrics
    assert {row.name for row in rows} == {"bias_vs_oracle", "coverage_68", "coverage_95", "training_spread"}
    rows = retrained_scores(replace(context, config=replace(config, retrain=0))).metrics
    assert [row.name for row in rows] == ["training_spread"]


@pytest.mark.parametrize("networks", [1, 9, -1])
def test_too_few_networks_are_refused(networks):
    values = {"toy": {"name": "gaussian_shift"}, "estimator": {"name": "oracle"}, "evaluation": {"retrain": networks}}
    with pytest.raises(InputError, match="retrain"):
        parse_config(values)
    values["evaluation"]["retrain"] = 10
    assert parse_config(values).evaluation.retrain == 10


# Several solutions.


class TwoSolutions(ExactToy):
    """x ~ N(t^2, 1): solutions at t and -t."""

    def __init__(self):
        t = Parameter("t", "interest", 1.0, (-3.0, 3.0), Uniform(-3.0, 3.0))
        self.spec = ToySpec("two_solutions", "1", ParameterSpace((t,)), (Feature("x"),), ("all",))

    def rates(self, theta):
        return torch.full((len(theta), 1), 1_000.0, dtype=torch.float64)

    def _sample(self, theta, generator):
        x = theta[:, 0] ** 2 + torch.randn(len(theta), generator=generator, dtype=torch.float64)
        return Events(x[:, None].float(), theta, torch.ones_like(x))

    def _log_prob(self, x, theta):
        return -0.5 * (x[:, 0] - theta[:, 0] ** 2) ** 2 - 0.5 * math.log(2 * math.pi)


def solutions(toy, name="oracle", seed=0, estimator=None):
    estimator = build_estimator(name, toy.spec, truth=toy).double() if estimator is None else estimator
    config = EvaluationConfig(n_events=(100,), n_points=1)
    return minima_rows(EvaluationContext(toy, estimator, config, seed))


@pytest.mark.parametrize(("toy", "expected"), [(TwoSolutions(), 2), (build_toy("gaussian_shift"), 1), (build_toy("mass_bump"), 1)])
def test_distinct_solutions_are_counted(toy, expected):
    for seed in (0, 1):
        nominal = solutions(toy, seed=seed)[0]
        assert (nominal.value, nominal.at["target"], nominal.direction) == (expected, expected, "target")
        assert nominal.stderr > 0


def test_two_moons_have_two_solutions_away_from_their_mirror():
    at_mirror, beside = solutions(build_toy("two_moons"))
    assert (at_mirror.value, beside.value) == (1, 2)


def test_an_estimator_that_misses_a_solution_is_told_from_the_oracle():
    toy = TwoSolutions()

    class OneSided(TruthControl):
        def _log_ratio(self, x, theta):
            return self.exact_log_ratio(x, theta.clamp_min(0) + 0.1 * theta.clamp_max(0), self.nominal)

    row = solutions(toy, estimator=OneSided(toy.spec, None, toy))[0]
    assert (row.value, row.at["target"]) == (1, 2)


def test_nowhere_finite_counts_no_solution():
    toy = build_toy("gaussian_shift")

    class Broken(TruthControl):
        def _log_ratio(self, x, theta):
            return theta.sum(-1) * math.nan

    row = solutions(toy, estimator=Broken(toy.spec, None, toy))[0]
    assert (row.value, row.at["target"]) == (0, 1)


def test_all_of_it_in_one_evaluation():
    toy = build_toy("gaussian_shift")
    config = EvaluationConfig(n_experiments=20, n_points=2, n_events=(1_000,), n_pool=2_000)
    rows = fit_scores(EvaluationContext(toy, build_estimator("oracle_shifted", toy.spec, truth=toy).double(), config, 0)).metrics
    worst = named(rows, "worst_bias", n_events=1_000)
    assert worst.value == pytest.approx(0.5, abs=0.05)
    assert worst.at["p_value"] < 1e-6
    assert named(rows, "interval_score", n_events=1_000).at["n_intervals"] == 40
    assert named(rows, "training_spread").at["reason"]
