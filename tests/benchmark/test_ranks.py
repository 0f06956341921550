"""Ranks of the truth among weighted draws: uniform exactly, and tested at the stated level."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from touchneedle.benchmark.metrics.ranks import (
    ALPHA,
    band_edges,
    deviation_row,
    ecdf_rows,
    inside_band,
    largest_deviation,
    simultaneous_band,
    truth_rank,
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal_draws(seed, n, draws, truth_std=1.0, proposal=(0.0, 1.0)):
    """Truth from N(0, truth_std^2) in column 0, draws from the proposal, log weights of N(0, 1) over the proposal."""
    mean, std = proposal
    z = torch.randn(n, 1 + draws, generator=generator(seed), dtype=torch.float64)
    values = torch.cat([truth_std * z[:, :1], mean + std * z[:, 1:]], 1)
    log_weight = -0.5 * values**2 + 0.5 * ((values - mean) / std) ** 2 + math.log(std)
    return values, log_weight


@pytest.mark.parametrize(("draws", "proposal"), [(1, (0.0, 1.0)), (3, (1.0, 2.0)), (20, (-0.5, 1.5)), (5, (0.3, 0.7))])
def test_ranks_are_uniform_for_any_number_of_draws_and_any_proposal(draws, proposal):
    values, log_weight = normal_draws(1, 20_000, draws, proposal=proposal)
    ranks = truth_rank(values, log_weight, generator(2))
    assert kstest(ranks.numpy(), "uniform").pvalue > 1e-4
    # A truth that is 15 % wider than the weights say is seen.
    wider, log_weight = normal_draws(1, 20_000, draws, truth_std=1.3, proposal=proposal)
    seen = kstest(truth_rank(wider.abs(), log_weight, generator(2)).numpy(), "uniform").pvalue
    assert seen < 1e-4


def test_ties_are_broken_at_random():
    values = torch.randint(3, (20_000, 8), generator=generator(3)).double()
    ranks = truth_rank(values, torch.zeros(20_000, 8), generator(4))
    assert kstest(ranks.numpy(), "uniform").pvalue > 1e-4
    constant = truth_rank(torch.zeros(20_000, 8), torch.zeros(20_000, 8), generator(5))
    assert kstest(constant.numpy(), "uniform").pvalue > 1e-4


def test_many_draws_give_the_distribution_function():
    values, log_weight = normal_draws(6, 50, 20_000, proposal=(0.5, 1.5))
    ranks = truth_rank(values, log_weight, generator(7))
    assert np.allclose(ranks, norm.cdf(values[:, 0]), atol=0.03)


def test_a_truth_that_is_denied_has_an_extreme_rank():
    values = torch.arange(4, dtype=torch.float64).expand(3, -1)
    log_weight = torch.zeros(3, 4, dtype=torch.float64)
    log_weight[1, 0] = -math.inf
    log_weight[2] = -math.inf
    ranks = truth_rank(values, log_weight, generator(8))
    assert 0 < ranks[0] < 0.25
    assert ranks[1:].tolist() == [0, 1]


def test_deviation_and_p_value_are_those_of_scipy():
    ranks = torch.rand(500, generator=generator(9), dtype=torch.float64) ** 1.1
    expected = kstest(ranks.numpy(), "uniform", method="exact")
    row = deviation_row("sbc", ranks, {})
    assert largest_deviation(ranks) == pytest.approx(expected.statistic, rel=1e-12)
    assert row.at["p_value"] == pytest.approx(expected.pvalue, rel=1e-6)
    assert row.at["band"] == pytest.approx(1.358 / math.sqrt(500), rel=0.02)


def test_null_level_and_its_spread_are_those_of_simulations():
    rows = [deviation_row("sbc", torch.rand(200, generator=generator(seed), dtype=torch.float64), {}) for seed in range(1_000)]
    values = np.array([row.value for row in rows])
    null = rows[0].null
    # Asymptotic numbers: at n = 200 the mean is 2 % lower.
    assert values.mean() == pytest.approx(null.value, rel=0.04)
    assert values.std() == pytest.approx(null.stderr, rel=0.1)
    false_alarms = np.mean([row.at["p_value"] < ALPHA for row in rows])
    assert abs(false_alarms - ALPHA) < 4 * math.sqrt(ALPHA * (1 - ALPHA) / len(rows))


@pytest.mark.parametrize("n", [100, 1_000])
def test_simultaneous_band_holds_at_its_level_and_sees_what_it_should(n):
    rng = np.random.default_rng(10)
    low, high = simultaneous_band(n)
    edges = band_edges()
    repeats = 2_000
    counts = np.stack([np.searchsorted(np.sort(rng.random(n)), edges, side="right") for _ in range(repeats)]) / n
    left = ((counts < low - 1e-12) | (counts > high + 1e-12)).any(-1).mean()
    # The band itself comes from 4,000 simulations of a discrete statistic.
    assert abs(left - ALPHA) < 4 * math.sqrt(ALPHA * (1 - ALPHA) * (1 / repeats + 1 / 4_000)) + 0.004
    assert inside_band(torch.rand(n, generator=generator(11), dtype=torch.float64))
    assert not inside_band(torch.rand(n, generator=generator(11), dtype=torch.float64) ** 2)


def test_curve_is_the_ecdf_difference():
    rows = ecdf_rows("sbc", "a", torch.full((100,), 0.5, dtype=torch.float64))
    by_level = {round(row["x"], 6): row for row in rows}
    assert by_level[0.25]["y"] == -0.25
    assert by_level[0.5]["y"] == 0.5
    assert by_level[0.25]["low"] < 0 < by_level[0.25]["high"]
