"""Rejection sampling: accepted candidates follow the density, row by row."""

import math

import torch
from scipy import stats

from touchneedle.toys.rejection import choose, rejection_sample

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
