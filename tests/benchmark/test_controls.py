"""Controls of known fineness: the oracle is exact and covers, the others come out in their known order."""

import math

import pytest
from scipy.stats import binom

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.benchmark.records import Metric
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

pytestmark = pytest.mark.slow

EXACT = ("fnf_two_class", "gaussian_shift", "mass_bump", "two_moons")
REGULAR = ("fnf_two_class", "gaussian_shift", "mass_bump")
EVALUATION = EvaluationConfig(name="controls", n_experiments=400, n_points=2, n_test=20_000, n_events=(1_000,), n_pool=100_000)
Rows = dict[tuple[str, int], Metric]


def rows_of(toy_name: str, estimator_name: str) -> Rows:
    """The metric rows of the first parameter of interest, by name and theta point."""
    toy = build_toy(toy_name)
    estimator = build_estimator(estimator_name, toy.spec, truth=toy)
    estimator.prepare(make_events(toy, 10_000, "prior", 0))
    interest = toy.spec.parameters.names[toy.spec.parameters.interest[0]]
    rows = evaluate(toy, estimator, EVALUATION, seed=5).metrics
    return {(row.name, int(row.at.get("point") or 0)): row for row in rows if row.at.get("parameter", interest) == interest}


@pytest.mark.parametrize("toy", EXACT)
def test_the_oracle_has_no_divergence_and_best_gaussian_has(toy: str) -> None:
    oracle, gaussian = rows_of(toy, "oracle")["kl", 0], rows_of(toy, "best_gaussian")["kl", 0]
    assert oracle.value == pytest.approx(0, abs=1e-9)
    assert gaussian.value is not None
    assert gaussian.stderr is not None
    # On a Gaussian toy the best Gaussian is wrong by the width's dependence on its nuisance alone.
    assert gaussian.value > 3 * gaussian.stderr


@pytest.mark.parametrize("toy", REGULAR)
@pytest.mark.parametrize("name", ["coverage_68", "coverage_95"])
def test_the_oracle_covers(toy: str, name: str) -> None:
    rows = rows_of(toy, "oracle")
    for point in (0, 1):
        row = rows[name, point]
        assert row.value is not None
        assert row.n is not None
        covered = round(row.value * row.n)
        level = math.erf(1 / math.sqrt(2)) if name == "coverage_68" else math.erf(2 / math.sqrt(2))
        low, high = binom.interval(0.9995, row.n, level)
        assert low <= covered <= high, (point, row.value)


@pytest.mark.parametrize("toy", REGULAR)
def test_controls_stand_in_their_known_order(toy: str) -> None:
    narrow, shifted = rows_of(toy, "oracle_narrow")["width_vs_oracle", 0], rows_of(toy, "oracle_shifted")["bias_vs_oracle", 0]
    assert narrow.value is not None
    assert narrow.stderr is not None
    assert narrow.value < 1 - 3 * narrow.stderr
    assert shifted.value is not None
    assert shifted.value == pytest.approx(-0.5, abs=0.1)
