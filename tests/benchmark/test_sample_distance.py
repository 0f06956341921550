"""Distances between samples against POT, scipy and numpy; their errors against repeats."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.stats import ks_2samp, wasserstein_distance

from touchneedle.benchmark.metrics.coordinates import fit_coordinates
from touchneedle.benchmark.metrics.sample_distance import (
    Sample,
    correlation_distance,
    mean_ks,
    random_directions,
    sliced_w1,
    worst_axis_w1,
)
from touchneedle.toys.base import Feature

NAMES = ("a", "b", "c")
DIRECTIONS = random_directions(20, 3, torch.Generator().manual_seed(3))
GENERATOR = np.random.default_rng(0)


def draw(n, shift=0.0, correlation=0.0, weighted=False, digits=None):
    x = GENERATOR.normal(size=(n, 3))
    x[:, 1] = correlation * x[:, 0] + math.sqrt(1 - correlation**2) * x[:, 1]
    x += shift * np.array([0.4, 0.7, 1.0])
    weight = GENERATOR.uniform(0, 2, n) if weighted else np.ones(n)
    return Sample(torch.tensor(x if digits is None else np.round(x, digits)), torch.tensor(weight))


def test_sliced_w1_is_that_of_pot():
    a, b = draw(300, weighted=True), draw(400, 0.3, weighted=True)
    # POT 0.9 cannot give its projections one by one: p = 1 makes the mean over them plain.
    projections = DIRECTIONS.numpy().T
    expected = ot.sliced_wasserstein_distance(a.x.numpy(), b.x.numpy(), a.share.numpy(), b.share.numpy(), projections=projections, p=1)
    assert sliced_w1(a, b, DIRECTIONS).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("digits", [None, 0])
def test_axes_are_those_of_scipy(digits):
    a, b = draw(300, digits=digits), draw(400, 0.3, digits=digits)
    columns = list(zip(a.x.numpy().T, b.x.numpy().T, strict=True))
    w1 = [wasserstein_distance(*pair) for pair in columns]
    worst = worst_axis_w1(a, b, NAMES)
    assert worst.value == pytest.approx(max(w1), rel=1e-9)
    assert worst.at == {"worst_feature": NAMES[int(np.argmax(w1))]}
    assert mean_ks(a, b).value == pytest.approx(np.mean([ks_2samp(*pair).statistic for pair in columns]), rel=1e-9)


def test_signed_measures_are_compared_through_their_jordan_parts():
    signs = np.where(GENERATOR.random(600) < 0.2, -1.0, 1.0)
    a, b = draw(600), draw(600, 0.5)
    a, b = Sample(a.x, torch.tensor(signs) * 1.5), Sample(b.x, torch.tensor(signs[::-1].copy()))
    expected = []
    for direction in DIRECTIONS:
        x, y = (direction @ a.x.T).numpy(), (direction @ b.x.T).numpy()
        u, v = a.share.numpy(), b.share.numpy()
        left = np.r_[x[u > 0], y[v < 0]], np.r_[u[u > 0], -v[v < 0]]
        right = np.r_[y[v > 0], x[u < 0]], np.r_[v[v > 0], -u[u < 0]]
        # Mass of either side: 1 plus all negative parts; scipy normalises it away.
        assert left[1].sum() == pytest.approx(right[1].sum())
        expected.append(left[1].sum() * wasserstein_distance(left[0], right[0], left[1], right[1]))
    assert a.signed
    assert sliced_w1(a, b, DIRECTIONS).value == pytest.approx(np.mean(expected), rel=1e-9)


def test_correlations_are_those_of_numpy():
    a, b = draw(300, correlation=0.5), draw(400)
    expected = np.linalg.norm(np.corrcoef(a.x.numpy().T) - np.corrcoef(b.x.numpy().T))
    assert correlation_distance(a, b).value == pytest.approx(expected, rel=1e-9)
    constant = Sample(torch.cat([a.x[:, :2], torch.ones(300, 1, dtype=torch.float64)], 1), a.weight)
    assert math.isfinite(correlation_distance(constant, b).value)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda a, b: sliced_w1(a, b, DIRECTIONS),
        lambda a, b: worst_axis_w1(a, b, NAMES),
        mean_ks,
        correlation_distance,
    ],
    ids=["sliced_w1", "worst_axis_w1", "mean_ks", "correlation_distance"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_are_those_of_repeats(statistic, weighted):
    repeats = [statistic(draw(500, 1.0, 0.6, weighted), draw(700, weighted=weighted)) for _ in range(200)]
    spread = np.std([found.value for found in repeats])
    assert np.mean([found.stderr for found in repeats]) == pytest.approx(spread, rel=4 / math.sqrt(2 * 200))


def test_coordinates_do_not_depend_on_units_and_set_missing_entries_apart():
    generator = torch.Generator().manual_seed(0)
    energy, angle = torch.rand(1_000, generator=generator) ** 2, torch.rand(1_000, generator=generator) * 6 - 3
    absent = torch.rand(1_000, generator=generator) < 0.3
    results = []
    for unit, marker in ((1.0, -999.0), (1000.0, -25.0), (1.0, math.nan)):
        angles = Feature("angle", kind="periodic", support=(-3.0, 3.0))
        features = (Feature("energy", missing=marker), angles, Feature("one", kind="discrete"))
        x = torch.stack([torch.where(absent, marker, unit * energy), angle, torch.ones(1_000)], -1)
        coordinates = fit_coordinates(x, features)
        assert coordinates.names == ("energy", "angle", "one", "missing energy")
        turned = coordinates(x + torch.tensor([0.0, 6.0, 0.0]))
        assert torch.allclose(turned, coordinates(x), atol=1e-5)
        results.append(coordinates(x))
    for result in results:
        assert torch.allclose(result, results[0], atol=1e-5)
        assert torch.equal(result[:, 3] == 1, absent)
        assert bool((result[:, 2] == 0).all())
    low, middle, high = torch.quantile(results[0][~absent, 0], torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert float(middle) == pytest.approx(0, abs=1e-6)
    assert float(high - low) == pytest.approx(1.349, rel=1e-6)
