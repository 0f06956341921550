"""Rejection sampling: the density of each row."""

import math

import torch

from touchneedle.toys.rejection import draw_by_rejection


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
