"""Two weighted samples of one feature: chi2 and Wasserstein distances against scipy, and at their stated rates."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.benchmark.metrics.column import Column, bin_of, equal_mass_edges, is_known, robust_scale
from touchneedle.benchmark.metrics.reweighting import shape_chi2
from touchneedle.benchmark.metrics.wasserstein import CdfGap, period_of
from touchneedle.toys.base import Feature

X = Feature("x")


def column(values, weight=None):
    values = torch.as_tensor(values).double()
    return Column.of(values, torch.ones(len(values)) if weight is None else torch.as_tensor(weight))


def draws(seed, n, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, n)


def test_distance_on_the_line_agrees_with_scipy():
    a, b = draws(0, 300), draws(1, 400, 0.3)
    v, w = np.random.default_rng(2).random(300), np.random.default_rng(3).random(400)
    gap = CdfGap.between(column(a, v), column(b, w))
    assert float(gap.distance(gap.difference)) == pytest.approx(stats.wasserstein_distance(a, b, v, w), rel=1e-12)


def test_distance_on_the_circle_is_the_best_over_all_cuts():
    angle = torch.as_tensor(draws(4, 200) * 0.3 + 6.2) % (2 * math.pi)
    other = (angle + 0.7) % (2 * math.pi)
    gap = CdfGap.between(column(angle), column(other), 2 * math.pi)
    cuts = np.linspace(0, 2 * math.pi, 2_000, endpoint=False)
    best = min(stats.wasserstein_distance((angle.numpy() - c) % (2 * math.pi), (other.numpy() - c) % (2 * math.pi)) for c in cuts)
    assert float(gap.distance(gap.difference)) == pytest.approx(0.7, abs=1e-6)
    assert float(gap.distance(gap.difference)) == pytest.approx(best, abs=1e-3)
    assert period_of(Feature("phi", kind="periodic")) == pytest.approx(2 * math.pi)
    assert period_of(X) is None


@pytest.mark.parametrize("law", ["normal", "student", "poisson"])
def test_the_null_of_the_distance_is_that_of_repeated_samples(law):
    def draw(seed, n):
        r = np.random.default_rng(seed)
        return {"normal": r.normal, "student": lambda size: r.standard_t(3, size), "poisson": lambda size: r.poisson(2, size)}[law](size=n)

    generator = torch.Generator().manual_seed(7)
    values, nulls, spreads = [], [], []
    for seed in range(60):
        weight = np.exp(0.7 * np.random.default_rng(500 + seed).normal(size=1_500))
        gap = CdfGap.between(column(draw(seed, 1_500), weight), column(draw(1_000 + seed, 2_000)))
        null, _ = gap.bootstrap(50, generator)
        values.append(float(gap.distance(gap.difference)))
        nulls.append(float(null.mean()))
        spreads.append(float(null.std()))
    assert abs(np.mean(values) - np.mean(nulls)) < 4 * np.std(values) / math.sqrt(60)
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.4)


def test_chi2_of_plain_counts_is_the_contingency_test():
    a, b = draws(8, 4_000), draws(9, 5_000, 0.05)
    chi2, dof = shape_chi2(X, column(a), column(b))
    edges = equal_mass_edges(X, column(b), 20)
    table = np.stack([np.bincount(bin_of(X, torch.as_tensor(v), edges).numpy(), minlength=21)[1:] for v in (a, b)])
    exact = stats.chi2_contingency(table, correction=False)
    assert dof == exact.dof == 19
    # The contingency test pools the variance of both samples.
    assert chi2 == pytest.approx(exact.statistic, rel=0.05)


def test_chi2_of_weighted_events_has_its_distribution():
    values = []
    for seed in range(150):
        x, y = draws(seed, 4_000), draws(10_000 + seed, 4_000, 0.8)
        chi2, dof = shape_chi2(X, column(x, np.exp(0.8 * x - 0.32)), column(y))
        values.append(stats.chi2.sf(chi2, dof))
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert abs(np.mean(np.array(values) < 0.05) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 150)


def test_bins_keep_atoms_whole_and_missing_entries_apart():
    feature = Feature("n", kind="discrete", missing=-9.9)
    values = np.random.default_rng(10).poisson(1.0, 5_000).astype(np.float32)
    values[:500] = -9.9
    sample = column(values)
    edges = equal_mass_edges(feature, sample, 20)
    index = bin_of(feature, sample.value, edges)
    assert bool((index[:500] == 0).all())
    assert bool((index[500:] > 0).all())
    assert all(len(index[sample.value == atom].unique()) == 1 for atom in (0.0, 1.0, 2.0))
    absent = column(np.where(np.arange(5_000) < 800, np.float32(-9.9), np.float32(1.0)))
    chi2, dof = shape_chi2(feature, absent, column(np.where(np.arange(5_000) < 500, np.float32(-9.9), np.float32(1.0))))
    assert dof == 1
    assert chi2 == pytest.approx(0.06**2 / (0.16 * 0.84 / 5_000 + 0.1 * 0.9 / 5_000), rel=1e-6)
    assert is_known(Feature("x", missing=math.nan), torch.tensor([math.nan, 1.0])).tolist() == [False, True]


def test_constant_features_and_small_samples_have_no_chi2():
    assert shape_chi2(X, column(np.ones(1_000)), column(np.ones(1_000)))[1] == 0
    assert shape_chi2(X, column(draws(0, 30)), column(draws(1, 30)))[1] == 0


def test_robust_scale_is_sigma_for_a_gaussian_and_never_zero():
    assert robust_scale(column(3 * draws(11, 100_000))) == pytest.approx(3, rel=0.02)
    assert robust_scale(column(np.r_[np.zeros(99), 1.0])) == pytest.approx(0.1, rel=0.01)
    assert robust_scale(column(np.zeros(10))) == 1
