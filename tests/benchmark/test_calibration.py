"""Calibration of posteriors, ratios and likelihoods, on closed-form Gaussians with planted errors."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.metrics.calibration import METRICS, calibration_scores
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.pairs import Pairs, Proposal, draw_pairs
from touchneedle.benchmark.metrics.pit import pit_scores
from touchneedle.benchmark.metrics.posterior_tests import posterior_scores
from touchneedle.benchmark.metrics.reliability import Labelled, labelled_scores, logistic_fit, reliability_scores
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, ExactToy, Feature, FiniteToy, Normal, Parameter, ParameterSpace, SignedToy, ToySpec, build_toy

NOISE, RHO = 0.5, 0.8
COVARIANCE = NOISE**2 * torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
CONFIG = EvaluationConfig(n_posterior=1_000, n_points=1, n_test=20_000, n_set=(1,))


def space():
    return ParameterSpace(tuple(Parameter(name, "interest", 0.0, (-20.0, 20.0), Normal(0.0, 1.0)) for name in ("a", "b")))


class Linear(ExactToy):
    """x ~ N(theta, COVARIANCE) in two dimensions, theta ~ N(0, 1)."""

    def __init__(self):
        self.spec = ToySpec("linear", "1", space(), (Feature("x1"), Feature("x2")), ("all",))

    def rates(self, theta):
        return torch.full((len(theta), 1), 100.0, dtype=torch.float64)

    def _sample(self, theta, generator):
        noise = torch.randn(theta.shape, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE).T
        return Events((theta + noise).float(), theta, torch.ones(len(theta)))

    def _log_prob(self, x, theta):
        return torch.distributions.MultivariateNormal(torch.zeros(2).double(), COVARIANCE).log_prob(x - theta)


@dataclass
class Planted:
    """Defects of `ClosedForm`: posterior widths times ``width``, means off by ``bias`` sigma; the prior itself."""

    width: float = 1.0
    bias: float = 0.0
    prior: bool = False


class ClosedForm(Estimator):
    """The exact posterior N(m, S), S = (1 + COVARIANCE^-1)^-1, m = S COVARIANCE^-1 x, of single events."""

    Config = Planted
    capabilities = frozenset({"posterior_log_prob", "posterior_sample"})

    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.posterior = torch.linalg.inv(torch.eye(2).double() + torch.linalg.inv(COVARIANCE))

    def _distribution(self, x):
        if self.config.prior:
            return torch.distributions.MultivariateNormal(torch.zeros(len(x), 2).double(), torch.eye(2).double())
        mean = x @ (self.posterior @ torch.linalg.inv(COVARIANCE)).T + self.config.bias * self.posterior.diagonal().sqrt()
        return torch.distributions.MultivariateNormal(mean, self.config.width**2 * self.posterior)

    def _log_ratio(self, x, theta):
        prior = torch.distributions.Normal(0.0, 1.0)
        at = [self._distribution(x).log_prob(point) - prior.log_prob(point).sum(-1) for point in (theta, self.nominal.expand_as(theta))]
        return at[0] - at[1]

    def _posterior_log_prob(self, theta, x):
        return self._distribution(x[:, 0]).log_prob(theta)

    def _posterior_sample(self, x, n, generator):
        distribution = self._distribution(x[:, 0])
        noise = torch.randn(n, len(x), 2, generator=generator, dtype=torch.float64)
        return (distribution.mean + noise @ distribution.scale_tril[0].T).transpose(0, 1)


def planted(config=CONFIG, seed=0, **defects):
    toy = Linear()
    return EvaluationContext(toy, ClosedForm(toy.spec, Planted(**defects)).double(), config, seed)


def control(name, toy=None, config=CONFIG, seed=0):
    toy = Linear() if toy is None else toy
    return EvaluationContext(toy, build_estimator(name, toy.spec, truth=toy).double(), config, seed)


def find(rows, name, **at):
    found = [row for row in rows if row.name == name and all(row.at.get(key) == value for key, value in at.items())]
    assert len(found) == 1, (name, at, len(found))
    return found[0]


def p_values(rows):
    return {
        (row.name, row.at.get("parameter") or row.at.get("function") or row.at.get("level")): row.at["p_value"]
        for row in rows
        if "p_value" in row.at
    }


MUTUAL_INFORMATION = 0.5 * float(torch.logdet(torch.eye(2).double() + torch.linalg.inv(COVARIANCE)))


# Posteriors


@pytest.mark.parametrize("make", [planted, lambda: control("oracle")])
def test_exact_posterior_passes_whether_asked_or_weighted(make):
    rows = posterior_scores(make(), 1).metrics
    assert min(p_values(rows).values()) > 1e-3
    gain, loss = find(rows, "information_gain"), find(rows, "information_loss")
    assert abs(gain.value - MUTUAL_INFORMATION) < 4 * gain.stderr
    assert gain.at["maximum"] == pytest.approx(gain.value, abs=0.01)
    assert abs(loss.value) < 4 * loss.stderr + 1e-12


@pytest.mark.parametrize("width", [0.7, 1.4])
def test_planted_width_has_its_closed_form_coverage_and_loss(width):
    rows = posterior_scores(planted(width=width), 1).metrics
    for level in (0.6827, 0.9545):
        row = find(rows, "expected_coverage", level=level)
        expected = chi2.cdf(width**2 * chi2.ppf(level, 2), 2)
        assert abs(row.value - expected) < 4 * row.stderr
        assert row.at["p_value"] < 1e-3
    loss = find(rows, "information_loss")
    # KL(N(m, S) || N(m, w^2 S)) in two dimensions
    assert abs(loss.value - (2 * math.log(width) + 1 / width**2 - 1)) < 4 * loss.stderr
    assert find(rows, "sbc", parameter="a").at["p_value"] < 1e-3
    assert find(rows, "tarp").at["p_value"] < 1e-3


def test_planted_bias_is_seen_by_every_coordinate():
    rows = posterior_scores(planted(bias=0.3), 1).metrics
    for name in ("a", "b"):
        row = find(rows, "sbc", parameter=name)
        # Ranks of N(0, 1) under N(0.3, 1): the ECDF leaves the diagonal by 2 Phi(0.15) - 1.
        assert abs(row.value - (2 * norm.cdf(0.15) - 1)) < 4 * row.stderr
        assert row.at["p_value"] < 1e-6
        assert row.at["inside_band"] is False


def test_prior_as_posterior_passes_coverage_and_is_caught_by_what_depends_on_data():
    rows = posterior_scores(planted(prior=True), 1).metrics
    for level in (0.6827, 0.9545):
        assert find(rows, "expected_coverage", level=level).at["p_value"] > 1e-3
    for name in ("a", "b"):
        assert find(rows, "sbc", parameter=name).at["p_value"] > 1e-3
    assert find(rows, "sbc", function="log_likelihood").at["p_value"] < 1e-12
    assert find(rows, "tarp").at["p_value"] < 1e-12
    assert find(rows, "information_gain").value == pytest.approx(0, abs=1e-12)
    loss = find(rows, "information_loss")
    assert abs(loss.value - MUTUAL_INFORMATION) < 4 * loss.stderr


def test_ratio_of_a_prior_is_caught_too():
    chosen = control("oracle")
    chosen.estimator._log_prob = lambda x, theta: x[:, 0] * 0
    rows = posterior_scores(chosen, 1).metrics
    assert find(rows, "expected_coverage", level=0.6827).at["p_value"] > 1e-3
    assert find(rows, "tarp").at["p_value"] < 1e-12
    gain = find(rows, "information_gain")
    assert abs(gain.value) < 0.02


def test_sets_multiply_single_events():
    rows = posterior_scores(planted(config=EvaluationConfig(n_posterior=500)), 10).metrics
    assert min(p_values(rows).values()) > 1e-3
    gain = find(rows, "information_gain")
    exact = 0.5 * float(torch.logdet(torch.eye(2).double() + 10 * torch.linalg.inv(COVARIANCE)))
    assert gain.at["posterior"] == "prior times exp log_ratio"
    assert abs(gain.value - exact) < 4 * gain.stderr


def test_proposal_of_a_linear_problem_is_its_posterior():
    context = planted()
    pairs = draw_pairs(context, 4_000, 1, "test")
    proposal = Proposal(pairs)
    exact = context.estimator._distribution(pairs.x[:, 0].double())
    assert torch.allclose(proposal.prediction(pairs.x), exact.mean, atol=0.1)
    # With 30 % prior: sampled moments, and the density as the mean of the draws' own.
    draws = proposal.sample(pairs.x[:2], 100_000, torch.Generator().manual_seed(1))
    assert torch.allclose(draws.mean(1), 0.7 * exact.mean[:2], atol=0.1)
    inverse = (-proposal.log_prob(draws, pairs.x[:2])).exp()
    inside = (draws.abs() < 2).all(-1)
    volume = (inverse * inside).mean(-1)
    error = (inverse * inside).std(-1) / math.sqrt(100_000)
    assert bool(((volume - 16).abs() < 5 * error).all())


def test_pairs_are_the_same_for_every_estimator_and_of_the_right_law():
    first, second = (draw_pairs(context, 2_000, 3, "test") for context in (planted(), control("oracle_narrow")))
    assert isinstance(first, Pairs)
    assert torch.equal(first.x, second.x)
    residual = first.x.double() - first.theta[:, None]
    assert torch.allclose(residual.reshape(-1, 2).T.cov(), COVARIANCE, atol=0.02)
    assert torch.allclose(first.u.T.cov(), torch.eye(2).double(), atol=0.15)


# Ratios


def labelled(slope, n=20_000, seed=1):
    """Two Gaussians at distance 1.5, with the log ratio times ``slope``."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.arange(n) % 2).double()
    x = torch.randn(n, generator=generator, dtype=torch.float64) + 1.5 * label
    return Labelled(slope * (1.5 * x - 1.125), label, torch.ones(n, dtype=torch.float64))


def test_logistic_fit_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    sample = labelled(0.7, 2_000)
    weight = 0.5 + torch.rand(2_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (intercept, slope), _ = logistic_fit(sample.log_ratio, sample.label, weight)
    reference = linear_model.LogisticRegression(C=1e10, tol=1e-10, max_iter=1_000)
    reference.fit(sample.log_ratio[:, None].numpy(), sample.label.numpy(), sample_weight=weight.numpy())
    assert slope == pytest.approx(reference.coef_[0, 0], rel=1e-5)
    assert intercept == pytest.approx(reference.intercept_[0], abs=1e-5)


def test_errors_and_nulls_of_the_ratio_rows_are_those_of_repeated_samples():
    rows = [labelled_scores(labelled(1.0, 2_000, seed), {"point": 1}).metrics for seed in range(200)]
    for name, target in (("calibration_slope", 1.0), ("calibration_intercept", 0.0)):
        values = np.array([find(row, name).value for row in rows])
        errors = np.array([find(row, name).stderr for row in rows])
        assert abs(values.mean() - target) < 4 * values.std() / math.sqrt(200) + 0.003
        assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    z = np.array([find(row, "ece").at["z"] for row in rows])
    assert abs(z.mean()) < 0.3
    assert z.std() == pytest.approx(1, abs=0.15)


def test_equal_ratios_are_not_sorted_by_class():
    """Discrete features leave a few values of log_ratio; events of one class come first in the sample."""
    rows = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        label = torch.arange(2_000, dtype=torch.float64).div(1_000, rounding_mode="floor")
        # Label 1 has the feature with probability 0.6, label 0 with 0.4.
        has = torch.rand(2_000, generator=generator, dtype=torch.float64) < 0.4 + 0.2 * label
        log_ratio = math.log(1.5) * (2 * has.double() - 1)
        rows.append(labelled_scores(Labelled(log_ratio, label, torch.ones(2_000, dtype=torch.float64)), {"point": 1}).metrics)
    z = np.array([find(row, "ece").at["z"] for row in rows])
    # The sums of the classes are fixed, which takes noise away where there are two bins only: never an alarm.
    assert -1 < z.mean() < 0.4
    assert z.std() < 1.2


def test_narrow_ratio_has_its_slope_and_a_calibration_error():
    rows = labelled_scores(labelled(1 / 0.81), {"point": 1}).metrics
    slope = find(rows, "calibration_slope")
    assert abs(slope.value - 0.81) < 4 * slope.stderr
    ece = find(rows, "ece")
    sample = labelled(1 / 0.81, 400_000, 3)
    exact = (torch.sigmoid(sample.log_ratio) - torch.sigmoid(0.81 * sample.log_ratio)).abs().mean()
    assert abs(ece.value - float(exact)) < 4 * ece.stderr + 0.001
    assert ece.at["z"] > 10


def test_reliability_of_controls():
    config = EvaluationConfig(n_test=20_000)
    toy = build_toy("gaussian_shift")
    for row in reliability_scores(control("oracle", toy, config)).metrics:
        assert abs(row.at["z"]) < 4
    narrow = reliability_scores(control("oracle_narrow", toy, config))
    slope = find(narrow.metrics, "calibration_slope", point=1)
    assert abs(slope.value - 0.81) < 4 * slope.stderr
    assert find(narrow.metrics, "ece", point=1).at["z"] > 5
    assert {row["curve"] for row in narrow.curves} == {"reliability"}


def test_infinite_and_missing_ratios_are_told():
    sample = labelled(1.0, 2_000)
    right, wrong, missing = (sample.log_ratio.clone() for _ in range(3))
    right[1], wrong[1], missing[1] = math.inf, -math.inf, math.nan
    rows = labelled_scores(Labelled(right, sample.label, sample.weight), {"point": 1}).metrics
    assert find(rows, "calibration_slope").at["infinite_share"] == pytest.approx(1 / 2_000)
    rows = labelled_scores(Labelled(wrong, sample.label, sample.weight), {"point": 1}).metrics
    assert find(rows, "ece").value is not None
    assert "denies an event" in find(rows, "calibration_slope").at["reason"]
    rows = labelled_scores(Labelled(missing, sample.label, sample.weight), {"point": 1}).metrics
    assert all(row.value is None and "0.05%" in row.at["reason"] for row in rows)


# Likelihoods


@pytest.mark.parametrize("name", ["oracle", "best_gaussian"])
def test_right_likelihoods_pass(name):
    chosen = control(name)
    chosen.estimator.prepare(Linear().sample(torch.randn(50_000, 2, generator=torch.Generator().manual_seed(3)).double(),
                                             generator=torch.Generator().manual_seed(4)))  # fmt: skip
    rows = pit_scores(chosen).metrics
    assert {row.at["method"] for row in rows} == {"samples"}
    assert min(row.at["p_value"] for row in rows) > 1e-3


def test_wrong_copula_is_invisible_to_features_and_seen_by_the_density():
    chosen = control("oracle", config=EvaluationConfig(n_posterior=2_000))
    independent = torch.distributions.Normal(0.0, NOISE)
    chosen.estimator._sample = lambda theta, generator: theta + NOISE * torch.randn(theta.shape, generator=generator, dtype=torch.float64)
    chosen.estimator._log_prob = lambda x, theta: independent.log_prob(x - theta).sum(-1)
    rows = pit_scores(chosen).metrics
    for name in ("x1", "x2"):
        assert find(rows, "pit", feature=name).at["p_value"] > 1e-3
    assert find(rows, "pit", function="log_density").at["p_value"] < 1e-4


def test_ratio_alone_has_a_pit_by_reweighting():
    toy = build_toy("gaussian_shift")
    rows = pit_scores(planted()).metrics
    assert {row.at["method"] for row in rows} == {"reweighted"}
    config = EvaluationConfig(n_posterior=3_000)
    narrow = pit_scores(control("oracle_narrow", toy, config)).metrics
    assert find(narrow, "pit", function="log_density").at["p_value"] < 1e-4
    right = control("oracle", toy, config)
    right.estimator.capabilities = frozenset()
    assert min(row.at["p_value"] for row in pit_scores(right).metrics) > 1e-3


# Whole family


def test_every_promised_metric_has_a_row_an_error_or_a_reason():
    config = EvaluationConfig(n_posterior=100, n_test=2_000)
    for chosen in (control("oracle", config=config), planted(config=config), control("oracle_narrow", build_toy("two_moons"), config)):
        scores = calibration_scores(chosen)
        assert {row.name for row in scores.metrics} == {info.name for info in METRICS}
        for row in scores.metrics:
            assert row.family == "calibration"
            assert (row.value is None) == ("reason" in row.at)
            assert row.value is None or (math.isfinite(row.value) and row.stderr is not None and row.n)


def test_same_seed_gives_the_same_rows():
    config = EvaluationConfig(n_posterior=100, n_test=500)
    first, second = (calibration_scores(control("oracle_narrow", config=config, seed=3)).metrics for _ in range(2))
    assert first == second


def test_answers_that_are_not_numbers_are_counted():
    chosen = control("oracle_narrow", config=EvaluationConfig(n_posterior=200, n_test=500))
    exact = chosen.estimator._log_ratio
    chosen.estimator._relative_log_prob = chosen.estimator._log_ratio = lambda x, theta: exact(x, theta).masked_fill(x[:, 0] > 1, math.nan)
    rows = calibration_scores(chosen).metrics
    share = float(norm.sf(1 / math.sqrt(1 + NOISE**2)))
    row = find(rows, "sbc", parameter="a", n_set=1)
    assert row.at["broken_share"] == pytest.approx(share, abs=0.1)
    assert row.at["p_value"] < 1e-6
    assert find(rows, "expected_coverage", n_set=1, level=0.9545).value < 0.95
    assert "not a number" in find(rows, "information_gain", n_set=1).at["reason"]
    assert "not a number" in find(rows, "ece", point=1).at["reason"]


class Signed(SignedToy):
    """A toy whose events carry signs."""

    def __init__(self):
        self.spec = Linear().spec

    def rates(self, theta):
        return torch.ones(len(theta), 1)

    def _sample(self, theta, generator):
        sign = torch.where(torch.rand(len(theta), generator=generator) < 0.2, -1.0, 1.0)
        return Events(theta.float(), theta, sign)

    def _density(self, x, theta):
        return x[:, 0] * 0


class Pool(FiniteToy):
    """A fixed sample of signal N(0, 1) and background N(2, 1), reweighted to the signal strength."""

    def __init__(self):
        mu = Parameter("mu", "interest", 1.0, (0.0, 100.0), Normal(1.0, 0.2))
        self.spec = ToySpec("pool", "1", ParameterSpace((mu,)), (Feature("x"),), ("signal", "background"))
        label = (torch.arange(60_000) % 2).long()
        x = torch.randn(60_000, 1, generator=torch.Generator().manual_seed(5)) + 2.0 * label[:, None]
        self.events = Events(x, torch.ones(60_000, 1, dtype=torch.float64), torch.ones(60_000, dtype=torch.float64), label)

    def rates(self, theta):
        return torch.stack([300 * theta[:, 0], 300 + 0 * theta[:, 0]], -1)

    def pool(self, split):
        return self.events

    def reweight(self, events, theta):
        return events.weight * torch.where(events.label == 0, theta[..., 0], 1.0)


class PoolRatio(Estimator):
    """The exact ratio of `Pool`."""

    Config = Planted

    def _log_ratio(self, x, theta):
        signal, background = -0.5 * x[:, 0] ** 2, -0.5 * (x[:, 0] - 2) ** 2
        mu = theta[:, 0]
        return torch.logaddexp(mu.log() + signal, background) - (1 + mu).log() - torch.logaddexp(signal, background) + math.log(2)


def test_signed_toys_are_declined_with_a_reason():
    toy = Signed()
    rows = calibration_scores(EvaluationContext(toy, ClosedForm(toy.spec, Planted()).double(), CONFIG, 0)).metrics
    assert {row.name for row in rows} == {info.name for info in METRICS}
    assert all(row.value is None and row.at["reason"] for row in rows)


def test_finite_pools_are_drawn_from_by_weight():
    toy = Pool()
    config = EvaluationConfig(n_posterior=300, n_set=(1, 10))
    rows = calibration_scores(EvaluationContext(toy, PoolRatio(toy.spec, Planted()).double(), config, 0)).metrics
    assert min(p_values(rows).values()) > 1e-3
    assert all(abs(row.at["z"]) < 4 for row in rows if row.name in ("ece", "calibration_slope", "calibration_intercept"))
    assert "no exact density" in find(rows, "information_loss", n_set=10).at["reason"]
    assert find(rows, "sbc", function="log_likelihood", n_set=10).at["density"] == "own"


# Stated levels and power, over repeated seeds

SEEDS = 150


def alarms(name, toy_name, n_set, n_posterior, seeds=SEEDS):
    """Share of seeds with p < 0.05 for every test of a control, by test."""
    toy = build_toy(toy_name)
    config = EvaluationConfig(n_posterior=n_posterior)
    found = {}
    for seed in range(seeds):
        chosen = control(name, toy, config, seed)
        rows = posterior_scores(chosen, n_set).metrics + (pit_scores(chosen).metrics if n_set == 1 else [])
        for key, value in p_values(rows).items():
            found.setdefault(key, []).append(value < 0.05)
    return {key: float(np.mean(values)) for key, values in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("toy", "n_set"), [("gaussian_shift", 1), ("gaussian_shift", 10), ("mass_bump", 1), ("mass_bump", 10)])
def test_false_alarms_of_the_oracle_come_at_the_stated_level(toy, n_set):
    shares = alarms("oracle", toy, n_set, 200)
    error = math.sqrt(0.05 * 0.95 / SEEDS)
    # Coverage counts are discrete, and their exact test conservative.
    assert all(share < 0.05 + 4 * error for share in shares.values()), shares
    assert np.mean(list(shares.values())) > 0.05 - 3 * error, shares


@pytest.mark.slow
@pytest.mark.parametrize("toy", ["gaussian_shift", "mass_bump"])
def test_a_narrow_posterior_is_seen_by_coverage_and_likelihood_ranks(toy):
    shares = alarms("oracle_narrow", toy, 10, 1_000, seeds=20)
    assert shares["expected_coverage", 0.6827] > 0.6, shares
    assert shares["sbc", "log_likelihood"] > 0.6, shares
