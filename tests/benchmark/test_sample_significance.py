"""p-values of distances between samples, beside ten distances of the truth to itself."""

import numpy as np
import pytest
from scipy import stats

from touchneedle.benchmark.metrics.sample_scores import significance, skewed_p_value

REPEATS, COUNT = 4_000, 10


def wasserstein(generator, n=200):
    """W1 between pairs of samples of N(0, 1): (REPEATS, 1 + COUNT)."""
    a, b = np.sort(generator.normal(size=(2, REPEATS, 1 + COUNT, n)), axis=-1)
    return np.abs(a - b).mean(-1)


def kolmogorov(generator, n=200):
    """KS distance of n uniform numbers to their law, as skewed as that of two samples: (REPEATS, 1 + COUNT)."""
    x = np.sort(generator.uniform(size=(REPEATS, 1 + COUNT, n)), axis=-1)
    steps = np.arange(n + 1) / n
    return np.maximum(steps[1:] - x, x - steps[:-1]).max(-1)


def p_values(distances, *, skewed=True):
    return np.array([significance(row[0], list(row[1:]), skewed=skewed)["p_value"] for row in distances])


@pytest.mark.parametrize("distance", [wasserstein, kolmogorov])
@pytest.mark.parametrize("level", [0.1, 0.02, 0.005])
def test_the_truth_is_accused_no_more_often_than_stated(distance, level):
    accused = (p_values(distance(np.random.default_rng(1))) < level).sum()
    assert accused <= stats.binom.isf(1e-4, REPEATS, level)


def test_student_would_accuse_too_often():
    """Why the p-values are not those of Student's t."""
    accused = (p_values(wasserstein(np.random.default_rng(1)), skewed=False) < 0.005).sum()
    assert accused > 3 * 0.005 * REPEATS


def test_gamma_variables_have_uniform_p_values():
    draws = np.random.default_rng(2).gamma(4 / 1.25**2, size=(REPEATS, 1 + COUNT))
    assert stats.kstest(p_values(draws), "uniform").pvalue > 1e-3


def test_an_area_under_a_curve_has_student_s_p_value():
    value, null = 0.55, list(0.5 + 0.01 * np.random.default_rng(3).normal(size=COUNT))
    expected = stats.t.sf((value - np.mean(null)) / np.std(null, ddof=1) / np.sqrt(1 + 1 / COUNT), COUNT - 1)
    assert significance(value, null, skewed=False)["p_value"] == pytest.approx(expected, rel=1e-10)


def test_p_values_fall_steadily_to_nothing():
    z = np.linspace(-3, 60, 500)
    p = np.array([skewed_p_value(float(each), COUNT) for each in z])
    assert (np.diff(p) <= 0).all()
    assert p[0] > 0.99
    assert 0 < p[-1] < 1e-9


def test_a_null_without_spread_says_nothing():
    assert significance(1.0, [0.0] * COUNT, skewed=True) == {}
