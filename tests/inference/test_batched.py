"""Profile fits of many problems at once: those that leave where ln L is known, and those that start at a lower maximum."""

from types import SimpleNamespace

import torch

from touchneedle.inference.batched import Problem, profile_fits

LOW, HIGH = torch.tensor([[-3.0, -3.0], [3.0, 3.0]], dtype=torch.float64)
TERMS = SimpleNamespace(range=(LOW, HIGH), parameters=SimpleNamespace(interest=(0,)))
UNIT = torch.eye(2, dtype=torch.float64)


def at_rows(theta, rows):
    """Maxima at (k / 2, -k / 2) of problem k, unit curvature."""
    away = theta - torch.stack([rows, -rows], -1) / 2
    return -0.5 * away.square().sum(-1), -away


def two_maxima(theta, rows):
    """Of odd problems a lower maximum near -1 and a higher one near 1 in the first parameter; of even ones that of `at_rows`."""
    x, y = theta.unbind(-1)
    value = -((x**2 - 1) ** 2) + 0.3 * x - 0.5 * y**2
    slope = torch.stack([-4 * x * (x**2 - 1) + 0.3, -y], -1)
    single, single_slope = at_rows(theta, rows)
    odd = rows % 2 == 1
    return torch.where(odd, value, single), torch.where(odd[:, None], slope, single_slope)


def test_fits_that_would_leave_give_up_and_change_no_others():
    start, truth = torch.zeros(1, 5, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)

    def within(theta):
        return theta.norm(dim=-1) < 1.2

    everywhere = profile_fits(Problem(at_rows, TERMS, UNIT), start, truth)
    confined = profile_fits(Problem(at_rows, TERMS, UNIT, within=within), start, truth)
    # |(k / 2, -k / 2)| = 0.71 k.
    assert confined.converged.tolist() == confined.valid.tolist() == [True, True, False, False, False]
    assert everywhere.converged.all()
    for name in ("theta", "covariance", "t_true", "conditional"):
        torch.testing.assert_close(getattr(confined, name)[:2], getattr(everywhere, name)[:2])
    assert confined.t_true[2:].isnan().all()
    assert within(confined.theta).all()
    torch.testing.assert_close(everywhere.t_true[:, 0], torch.arange(5).double() ** 2 / 4, atol=1e-6, rtol=0)


def test_none_may_be_found():
    fits = profile_fits(
        Problem(at_rows, TERMS, UNIT, within=lambda theta: theta[:, 0] < -1), torch.zeros(1, 3, 2).double(), torch.zeros(2).double()
    )
    assert not fits.converged.any()
    assert fits.conditional.shape == (3, 1, 2)


def test_a_lower_maximum_is_left_and_the_others_stay():
    start = torch.tensor([-1.0, 0.0], dtype=torch.float64).expand(1, 4, 2)
    truth = torch.tensor([1.0, 0.0], dtype=torch.float64)
    fits = profile_fits(Problem(two_maxima, TERMS, 0.1 * UNIT), start, truth)
    assert fits.converged.all()
    assert (fits.theta[1::2, 0] > 1).all()
    torch.testing.assert_close(fits.theta[::2], torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64), atol=1e-4, rtol=0)
    assert (fits.t_true >= 0).all()


def test_a_fit_that_did_not_converge_is_repeated():
    calls = []

    def fails_at_first(theta, rows):
        value, slope = at_rows(theta, rows)
        calls.append(rows)
        # After the start no step of the first search is uphill.
        return (value - 1e6 if 1 < len(calls) < 14 else value), slope

    start, truth = torch.tensor([0.3, 0.4], dtype=torch.float64).expand(1, 2, 2), torch.tensor([2.5, 0.0], dtype=torch.float64)
    fits = profile_fits(Problem(fails_at_first, TERMS, UNIT), start, truth)
    assert fits.valid.all()
    torch.testing.assert_close(fits.theta, torch.tensor([[0.0, 0.0], [0.5, -0.5]], dtype=torch.float64), atol=1e-4, rtol=0)


def test_some_problems_are_the_same_problems():
    scale = torch.stack([UNIT * (k + 1) for k in range(4)])
    rows, start = torch.tensor([3, 1]), torch.zeros(2, 2, dtype=torch.float64)
    some = Problem(at_rows, TERMS, scale, newton=lambda theta, chosen: UNIT * (1 + chosen[:, None, None])).at(rows)
    torch.testing.assert_close(some.scale, scale[rows])
    torch.testing.assert_close(some.maximise(start).theta, torch.tensor([[1.5, -1.5], [0.5, -0.5]], dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(some.curvature(start), UNIT * (1 + rows[:, None, None]))
