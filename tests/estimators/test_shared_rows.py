"""Entries of a table at shared rows: the same values and slopes, with one evaluation per distinct row."""

import pytest
import torch

from touchneedle.estimators.shared_rows import entries_at_rows


def table(theta):
    steps = torch.arange(1.0, 6.0, dtype=theta.dtype)
    return (theta[:, :1] * steps).sin() + theta[:, 1:] ** 2 * steps


@pytest.mark.parametrize("n_distinct", [1, 7, 400])
def test_values_and_slopes_are_those_of_every_row(n_distinct):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(n_distinct, 2, generator=generator, dtype=torch.float64)
    theta = points[torch.randint(n_distinct, (500,), generator=generator)]
    column = torch.randint(5, (500,), generator=generator)
    expected, found = (theta.clone().requires_grad_() for _ in range(2))
    direct = table(expected).gather(1, column[:, None]).squeeze(1)
    shared = entries_at_rows(table, found, column)
    torch.testing.assert_close(shared, direct)
    weight = torch.arange(500, dtype=torch.float64)
    (weight @ direct).backward()
    (weight @ shared).backward()
    torch.testing.assert_close(found.grad, expected.grad)
    assert torch.equal(entries_at_rows(table, theta, column), shared.detach())


def test_shared_rows_are_evaluated_once():
    seen = []

    def counted(theta):
        seen.append(len(theta))
        return table(theta)

    theta = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64).repeat(100, 1)
    entries_at_rows(counted, theta, torch.zeros(200, dtype=torch.int64))
    assert seen == [2]
    assert entries_at_rows(table, theta[:0], torch.zeros(0, dtype=torch.int64)).shape == (0,)
