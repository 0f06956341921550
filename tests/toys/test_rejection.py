"""Rejection sampling: accepted candidates follow the density, row by row."""

import math

import torch
from scipy import stats

from touchneedle.toys.rejection import choose, draw_by_rejection, rejection_sample

N = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_events_follow_the_density_of_their_own_theta():
    """x^theta on [0, 1] from a flat envelope: Beta(theta + 1, 1), whether many rows or few are left."""

    def propose(theta, generator):
        x = torch.rand(len(theta), 1, generator=generator, dtype=torch.float64)
        return x, x[:, 0] ** theta[:, 0]

    theta = torch.tensor([0.0, 2.0, 20.0], dtype=torch.float64).repeat(N // 3)
    x = rejection_sample(theta.unsqueeze(-1), propose, generator())[:, 0]
    for power in theta.unique().tolist():
        assert stats.kstest(x[theta == power].numpy(), stats.beta(power + 1, 1).cdf).pvalue > 1e-4
    assert rejection_sample(theta[:0].unsqueeze(-1), propose, generator()).shape == (0, 1)


def test_indices_are_chosen_in_proportion_to_their_weights():
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    found = torch.bincount(choose(weights.expand(N, -1), generator()), minlength=5).double() / N
    assert found[[0, 2, 4]].tolist() == [0.0] * 3
    assert abs(found[1].item() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / N)


def test_rejection_draws_the_density_of_each_row():
    """Density proportional to x^k on [0, 2] x [-1, 0]: E[x] = 2 (k + 1) / (k + 2), and the second feature is flat."""
    power = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).repeat(20_000).unsqueeze(-1)
    x = draw_by_rejection(lambda x, rows: (x[:, 0] / 2) ** rows[:, 0], (0.0, -1.0), (2.0, 0.0), power, torch.Generator().manual_seed(0))
    for k in (0, 1, 4):
        first, second = x[power[:, 0] == k].T
        variance = 4 * ((k + 1) / (k + 3) - ((k + 1) / (k + 2)) ** 2)
        assert abs(first.mean().item() - 2 * (k + 1) / (k + 2)) < 4 * math.sqrt(variance / 20_000)
        assert abs(second.mean().item() + 0.5) < 4 * math.sqrt(1 / 12 / 20_000)
        assert (first.min() >= 0) & (first.max() <= 2) & (second.min() >= -1) & (second.max() <= 0)
