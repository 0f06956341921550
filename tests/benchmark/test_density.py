"""The density family on controls and planted estimators, where it has nothing to say, and paired differences."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.special import erf, ndtr
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.metrics.auc import auc_and_error
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.density import METRICS, density_scores
from touchneedle.benchmark.metrics.ratio_error import slope_and_error
from touchneedle.benchmark.paired import paired_kl_difference
from touchneedle.benchmark.store import write_table
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import (
    Events,
    ExactToy,
    Feature,
    FiniteToy,
    Parameter,
    ParameterSpace,
    SignedToy,
    SimulatedToy,
    ToySpec,
    Uniform,
    build_toy,
)

CONFIG = EvaluationConfig(n_points=1, n_test=20_000, n_sample=2_000)
NAMES = {info.name for info in METRICS}
SAMPLE = {"sliced_w1", "signed_sliced_w1", "mean_ks", "c2st", "correlation_distance"}


def find(rows, name, **at):
    found = [row for row in rows if row.name == name and all(row.at.get(key) == value for key, value in at.items())]
    assert len(found) == 1, (name, at, len(found))
    return found[0]


def scores(estimator, toy, config=CONFIG, seed=0):
    return density_scores(EvaluationContext(toy, estimator.double(), config, seed))


def control(name, toy, config=CONFIG, seed=0):
    estimator = build_estimator(name, toy.spec, truth=toy)
    estimator.prepare(make_events(toy, 10_000, "prior", 0))
    return scores(estimator, toy, config, seed)


@dataclass
class Gaussian:
    """q = N(shift + delta, (scale s)^2) for gaussian_shift: options of a planted estimator."""

    delta: float = 0.0
    scale: float = 1.0


class Planted(Estimator):
    """Closed forms for everything: its divergences from gaussian_shift are known."""

    Config = Gaussian
    capabilities = frozenset({"log_prob", "sample"})

    def __init__(self, spec, config=None):
        super().__init__(spec, config or Gaussian())

    def _normal(self, theta):
        shift, offset, log_scale = theta.unbind(-1)
        return torch.distributions.Normal(shift + 0.05 * offset + self.config.delta, self.config.scale * torch.exp(0.1 * log_scale))

    def _log_prob(self, x, theta):
        return self._normal(theta).log_prob(x[:, 0])

    def _log_ratio(self, x, theta):
        return self._log_prob(x, theta) - self._log_prob(x, self.nominal.expand_as(theta))

    def _sample(self, theta, generator):
        normal = self._normal(theta)
        noise = torch.randn(len(theta), generator=generator, dtype=torch.float64).to(theta)
        return (normal.mean + normal.stddev * noise)[:, None]


def within(row, expected, sigmas=4.5):
    assert abs(row.value - expected) < sigmas * row.stderr + 1e-9, (row.name, row.value, row.stderr, expected)


@pytest.mark.parametrize(("delta", "scale"), [(0.2, 1.0), (0.0, 0.8), (-0.3, 1.3)])
def test_a_planted_gaussian_has_its_closed_forms(delta, scale):
    toy = build_toy("gaussian_shift")
    rows = scores(Planted(toy.spec, Gaussian(delta, scale)), toy, replace(CONFIG, n_test=50_000)).metrics
    kl = math.log(scale) + (1 + delta**2) / (2 * scale**2) - 0.5
    within(find(rows, "kl"), kl)
    within(find(rows, "kl_positive"), kl)
    grid = np.linspace(-12, 12, 400_001)
    p, q = norm.pdf(grid), norm.pdf(grid, delta, scale)
    tv = erf(abs(delta) / math.sqrt(8)) if scale == 1 else np.trapezoid(abs(p - q), grid) / 2
    within(find(rows, "tv"), tv)
    # P(D(x) > D(y)) for x ~ p, y ~ q, by sorting the grid on D.
    order = np.argsort(np.log(q + 1e-300) - np.log(p + 1e-300))
    width = grid[1] - grid[0]
    auc = ndtr(abs(delta) / math.sqrt(2)) if scale == 1 else np.sum(p[order] * np.cumsum(q[order][::-1])[::-1]) * width**2
    within(find(rows, "optimal_auc"), auc)
    # s_q - s_p of the shift: (x - delta)/scale^2 - x, information 1; of log_scale: 0.1 [((x - delta)/scale)^2 - x^2], information 2 * 0.01.
    within(find(rows, "score_error", parameter="shift"), (1 / scale**2 - 1) ** 2 + delta**2 / scale**4)
    a, b, c = 1 / scale**2 - 1, -2 * delta / scale**2, delta**2 / scale**2
    within(find(rows, "score_error", parameter="log_scale"), (3 * a**2 + b**2 + c**2 + 2 * a * c) / 2)
    assert find(rows, "leak").value == 0
    # A trained classifier cannot beat the best one.
    c2st = find(rows, "c2st")
    assert 0.5 + 3 * c2st.stderr < c2st.value < auc + 4 * c2st.stderr
    within(find(rows, "sliced_w1", slices="random"), np.trapezoid(abs(ndtr(grid) - ndtr((grid - delta) / scale)), grid))
    within(find(rows, "mean_ks"), abs(ndtr(grid) - ndtr((grid - delta) / scale)).max())
    assert find(rows, "sliced_w1", slices="random").at["p_value"] < 0.01


def test_controls_are_where_they_should_be():
    toy = build_toy("gaussian_shift")
    rows = {name: control(name, toy).metrics for name in ("oracle", "oracle_narrow", "oracle_shifted")}
    for name in ("kl", "kl_positive", "tv", "log_ratio_rmse", "log_ratio_median", "leak"):
        assert find(rows["oracle"], name).value == 0
    for name in ("optimal_auc", "log_ratio_slope"):
        assert find(rows["oracle"], name).value == find(rows["oracle"], name).at["target"]
    narrow = find(rows["oracle_narrow"], "log_ratio_slope")
    assert (narrow.value, narrow.at["target"]) == (pytest.approx(0.81), 1.0)
    for parameter in toy.spec.parameters.names:
        assert find(rows["oracle"], "score_error", parameter=parameter).value == 0
        assert find(rows["oracle_narrow"], "score_error", parameter=parameter).value == pytest.approx((1 / 0.81 - 1) ** 2)
        assert find(rows["oracle_shifted"], "score_error", parameter=parameter).value > 0
    assert find(rows["oracle_narrow"], "kl").at["reason"] == "the estimator has no log_prob"
    assert find(rows["oracle_shifted"], "kl").value > 2 * find(rows["oracle_shifted"], "kl").stderr


@pytest.mark.slow
def test_the_truth_passes_its_own_sample_metrics():
    toy = build_toy("fnf_two_class")
    found = [row for seed in range(20) for row in control("oracle", toy, seed=seed).metrics if "z" in row.at]
    for name in SAMPLE - {"signed_sliced_w1"}:
        z = np.array([row.at["z"] for row in found if row.name == name])
        # z / sqrt(1.1) follows t with 9 degrees of freedom: variance 9 / 7.
        assert abs(z.mean()) < 4 * math.sqrt(1.1 * 9 / 7 / 20), (name, z)
        assert abs(z).max() < 6, (name, z)


def test_every_promised_row_is_there_with_an_error_or_a_reason():
    for toy_name, name in (("gaussian_shift", "best_gaussian"), ("two_moons", "oracle_shifted"), ("fnf_two_class", "oracle_narrow")):
        rows = control(name, build_toy(toy_name), replace(CONFIG, n_points=2, n_test=2_000, n_sample=200)).metrics
        assert {row.name for row in rows} == NAMES
        for row in rows:
            assert row.family == "density"
            assert row.n if row.value is not None else row.at["reason"]
            assert row.stderr is not None or row.value is None or math.isinf(row.value)
            assert row.direction != "target" or "target" in row.at or row.value is None
            assert row.name not in SAMPLE or row.value is None or (row.null is not None and row.null.stderr is not None)


def test_the_auc_is_that_of_scikit_learn_and_its_error_that_of_repeats():
    generator = np.random.default_rng(0)
    first, second = (torch.tensor(np.round(generator.normal(mean, 1, n), 1)) for mean, n in ((0.3, 700), (0.0, 400)))
    weights = [torch.tensor(generator.uniform(0, 2, len(values))) for values in (first, second)]
    label, values = np.r_[np.ones(700), np.zeros(400)], torch.cat([first, second])
    assert auc_and_error(first, second)[0] == pytest.approx(roc_auc_score(label, values), abs=1e-12)
    weighted = roc_auc_score(label, values, sample_weight=torch.cat(weights))
    assert auc_and_error(first, second, *weights)[0] == pytest.approx(weighted, abs=1e-12)
    repeats = [
        auc_and_error(torch.tensor(generator.normal(0.3, 1, 700)), torch.tensor(generator.normal(0, 1, 400)))
        for _ in range(300)
    ]  # fmt: skip
    auc, errors = np.array(repeats).T
    assert errors.mean() == pytest.approx(auc.std(), rel=4 / math.sqrt(2 * 300))


def test_the_slope_and_its_error_are_those_of_repeats():
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(300):
        predictor = torch.randn(400, generator=generator, dtype=torch.float64)
        noise = torch.randn(400, generator=generator, dtype=torch.float64) * (0.1 + predictor.abs())
        found.append(slope_and_error(predictor, 0.7 * predictor + noise + 2))
    slope, error = np.array(found).T
    assert abs(slope.mean() - 0.7) < 4 * slope.std() / math.sqrt(300)
    assert error.mean() == pytest.approx(slope.std(), rel=4 / math.sqrt(2 * 300))


class Faulty(Planted):
    """The density is zero, or not a number, for events above 1.5."""

    fault = -math.inf

    def _log_prob(self, x, theta):
        return torch.where(x[:, 0] > 1.5, self.fault, super()._log_prob(x, theta))

    def _sample(self, theta, generator):
        x = super()._sample(theta, generator)
        return torch.where(x > 1.5, math.nan, x) if math.isnan(self.fault) else x


def test_answers_that_are_not_finite_are_said_to_be_so():
    toy = build_toy("gaussian_shift")
    missing = 1 - ndtr(1.5)
    rows = scores(Faulty(toy.spec), toy).metrics
    assert find(rows, "kl").value == math.inf
    assert find(rows, "kl").at["share_finite"] == pytest.approx(1 - missing, abs=0.01)
    within(find(rows, "tv"), missing)
    assert find(rows, "log_ratio_rmse").value is None
    broken = Faulty(toy.spec)
    broken.fault = math.nan
    rows = scores(broken, toy).metrics
    for row in rows:
        assert row.value is None or row.name == "leak"
        assert "reason" in row.at or row.name == "leak"
    # An event that is not a number lies outside the support.
    assert find(rows, "leak").value == pytest.approx(missing, abs=5 * find(rows, "leak").stderr)


class Blind(Planted):
    """The same answer at every theta."""

    def _normal(self, theta):
        return torch.distributions.Normal(torch.zeros(len(theta), dtype=theta.dtype), 1.0)


def test_an_estimator_without_theta_is_no_crash():
    toy = build_toy("gaussian_shift")
    rows = scores(Blind(toy.spec), toy).metrics
    assert "no gradient in theta" in find(rows, "score_error").at["reason"]
    assert "the same for all events" in find(rows, "log_ratio_slope").at["reason"]
    assert find(rows, "log_ratio_rmse").value > 0


def test_the_events_are_frozen_and_differences_paired(tmp_path):
    toy = build_toy("gaussian_shift")
    config = replace(CONFIG, n_points=2, n_test=5_000, n_sample=100)
    estimators = {name: Planted(toy.spec, Gaussian(delta)) for name, delta in (("a", 0.10), ("b", 0.12))}
    results = {name: scores(estimator, toy, config) for name, estimator in estimators.items()}
    for name, result in results.items():
        write_table(tmp_path / f"{name}.parquet", result.tables["events"])
    differences = paired_kl_difference(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert [difference.point for difference in differences] == [0, 1]
    for difference in differences:
        kl = [find(result.metrics, "kl", point=difference.point) for result in results.values()]
        assert difference.n == 5_000
        assert difference.value == pytest.approx(kl[0].value - kl[1].value, abs=1e-6)
        # Ten times better than the difference of two independent means.
        assert difference.stderr < 0.2 * math.hypot(kl[0].stderr, kl[1].stderr)
    sigma = math.exp(0.1)  # log_scale is +-1 at the second point
    assert abs(differences[0].value - (0.1**2 - 0.12**2) / 2) < 4 * differences[0].stderr
    assert min(abs(differences[1].value - (0.1**2 - 0.12**2) / 2 / s**2) for s in (sigma, 1 / sigma)) < 4 * differences[1].stderr
    other = scores(estimators["b"], toy, config, seed=1)
    write_table(tmp_path / "c.parquet", other.tables["events"])
    with pytest.raises(InputError, match=r"log_p differs: compare runs of one toy"):
        paired_kl_difference(tmp_path / "a.parquet", tmp_path / "c.parquet")
    ratio = control("oracle_narrow", toy, config).tables["events"]
    assert "log_ratio" in ratio
    write_table(tmp_path / "d.parquet", ratio)
    with pytest.raises(InputError, match="expected a column log_q"):
        paired_kl_difference(tmp_path / "a.parquet", tmp_path / "d.parquet")


def test_batches_hold_the_events_of_any_number():
    toy = build_toy("gaussian_shift")
    context = EvaluationContext(toy, Planted(toy.spec), CONFIG, 0)
    n = context.batch_size + 10
    batches = list(context.batches_at(context.points[0], n, "density", 0))
    assert [len(batch) for batch in batches] == [context.batch_size, 10]
    again = torch.cat([batch.x for batch in context.batches_at(context.points[0], n, "density", 0)])
    assert torch.equal(again, torch.cat([batch.x for batch in batches]))


MU = Parameter("mu", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0))


class Kinds(ExactToy):
    """A count, an angle, and an energy that is missing in half of the events."""

    Config = dict

    def __init__(self):
        features = (
            Feature("jets", kind="discrete", support=(0.0, 20.0)),
            Feature("angle", kind="periodic", support=(-math.pi, math.pi)),
            Feature("energy", missing=-25.0),
        )
        self.spec = ToySpec("kinds", "1", ParameterSpace((MU,)), features, ("all",))

    def rates(self, theta):
        return torch.full((len(theta), 1), 1000.0, dtype=torch.float64)

    def _sample(self, theta, generator):
        uniform = torch.rand(len(theta), 3, generator=generator, dtype=torch.float64)
        jets = (uniform[:, 0] * 4).floor()
        energy = torch.where(uniform[:, 2] < 0.5, -25.0, theta[:, 0] + uniform[:, 2])
        x = torch.stack([jets, (2 * uniform[:, 1] - 1) * math.pi, energy], -1)
        return Events(x.float(), theta, torch.ones(len(theta)))

    def _log_prob(self, x, theta):
        energy = (x[:, 2] == -25) | ((x[:, 2] - theta[:, 0] > 0.499) & (x[:, 2] - theta[:, 0] < 1.001))
        jets = (x[:, 0] == x[:, 0].round()) & (x[:, 0] >= 0) & (x[:, 0] < 4)
        return torch.where(energy & jets, -math.log(4 * 2 * math.pi), -math.inf) + 0 * theta[:, 0]


class KindsEstimator(Estimator):
    """Draws the truth, with the angle turned once around."""

    Config = dict
    capabilities = frozenset({"sample"})

    def __init__(self, toy):
        super().__init__(toy.spec, {})
        self.toy = toy

    def _log_ratio(self, x, theta):
        return self.toy.log_prob(x, theta) * 0 + theta[:, 0]

    def _sample(self, theta, generator):
        return self.toy.sample(theta.double(), generator=generator).x + torch.tensor([0.0, 2 * math.pi, 0.0])


def test_discrete_periodic_and_missing_features():
    toy = Kinds()
    rows = scores(KindsEstimator(toy), toy).metrics
    for name in ("sliced_w1", "mean_ks", "c2st", "correlation_distance"):
        for row in (row for row in rows if row.name == name):
            assert abs(row.at["z"]) < 6, row
            # In units of sigma: the marker of missing entries has no weight.
            assert row.null.value < (0.6 if name == "c2st" else 0.2), row
    assert find(rows, "leak").value == 0


class Weighted(SignedToy):
    """(1 - mu) N(0, 1) + mu N(0, 0.5): negative somewhere for mu < -1/3; one weight is negative for every mu < 0."""

    Config = dict

    def __init__(self):
        self.spec = ToySpec("weighted", "1", ParameterSpace((MU,)), (Feature("x"), Feature("y")), ("wide", "narrow"))

    def rates(self, theta):
        return 1000 * torch.cat([1 - theta, theta], -1)

    def _sample(self, theta, generator):
        total = (1 - theta[:, 0]).abs() + theta[:, 0].abs()
        wide = torch.rand(len(theta), generator=generator, dtype=torch.float64) < (1 - theta[:, 0]).abs() / total
        x = torch.randn(len(theta), 2, generator=generator, dtype=torch.float64) * torch.where(wide, 1.0, 0.5)[:, None]
        return Events(x.float(), theta, torch.where(wide, total, theta[:, 0].sign() * total))

    def _density(self, x, theta):
        wide, narrow = (torch.distributions.Normal(0.0, scale).log_prob(x).sum(-1).exp() for scale in (1.0, 0.5))
        return (1 - theta[:, 0]) * wide + theta[:, 0] * narrow


class SignedRatio(Estimator):
    """The exact signed ratio, or 1 everywhere."""

    Config = dict
    capabilities = frozenset({"signed"})

    def __init__(self, toy, exact):
        super().__init__(toy.spec, {})
        self.toy, self.exact = toy, exact

    def ratio(self, x, theta):
        if not self.exact:
            return torch.ones(len(x), dtype=torch.float64)
        return self.toy.density(x, theta) / self.toy.density(x, torch.zeros(1, dtype=torch.float64))

    def _log_ratio(self, x, theta):
        return self.ratio(x, theta).log()


def test_signed_toys_have_a_signed_distance():
    toy = Weighted()
    config = replace(CONFIG, n_points=2, n_sample=5_000, n_test=1_000)
    rows = {exact: scores(SignedRatio(toy, exact), toy, config).metrics for exact in (True, False)}
    for slices in ("random", "worst_axis"):
        at = {"slices": slices, "point": 0}
        assert abs(find(rows[True], "signed_sliced_w1", **at).at["z"]) < 6
    # At mu = -0.5 the measure differs, and events of nominal with weight 1 do not follow.
    wrong, right = (find(rows[exact], "signed_sliced_w1", slices="random", point=1) for exact in (False, True))
    assert wrong.at["z"] > 4
    assert wrong.at["z"] > 2 * abs(right.at["z"])
    assert {find(rows[True], name, point=0).at["reason"] for name in ("c2st", "correlation_distance")} == {"the toy has negative weights"}
    assert find(rows[True], "kl", point=0).at["reason"] == "the toy has no exact density"


class Simulated(SimulatedToy):
    """No density is known."""

    Config = dict

    def __init__(self):
        self.spec = replace(build_toy("gaussian_shift").spec, name="simulated", features=(Feature("x", support=(-1.0, 9.0)),))

    def rates(self, theta):
        return torch.full((len(theta), 1), 1000.0, dtype=torch.float64)

    def _sample(self, theta, generator):
        return build_toy("gaussian_shift").sample(theta, generator=generator)


class Pool(FiniteToy):
    """Weighted events of N(0, 1) in one dimension; the density is unknown."""

    Config = dict

    def __init__(self, n):
        self.n = n
        self.spec = replace(build_toy("gaussian_shift").spec, name="pool")

    def rates(self, theta):
        return torch.full((len(theta), 1), 1000.0, dtype=torch.float64)

    def pool(self, split):
        generator = torch.Generator().manual_seed(7)
        weight = 0.5 + torch.rand(self.n, generator=generator, dtype=torch.float64)
        return Events(torch.randn(self.n, 1, generator=generator), torch.zeros(self.n, 3, dtype=torch.float64), weight)

    def reweight(self, events, theta):
        return events.weight


def test_toys_without_a_density_have_sample_metrics():
    for toy in (Simulated(), Pool(30_000)):
        result = scores(Planted(toy.spec), toy)
        rows = result.metrics
        assert {row.name for row in rows} == NAMES
        assert find(rows, "kl").at["reason"] == "the toy has no exact density"
        assert abs(find(rows, "mean_ks").at["z"]) < 6
        assert abs(find(rows, "c2st").at["z"]) < 6
        assert set(result.tables["events"]) == {"point", "event", "weight", "log_q"}
    within(find(scores(Planted(Simulated().spec), Simulated()).metrics, "leak"), ndtr(-1))
    assert "too small" in find(scores(Planted(Pool(100).spec), Pool(100)).metrics, "mean_ks").at["reason"]
