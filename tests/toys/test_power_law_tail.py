"""The power-law toy against scipy's multivariate t, its radial law, and its information in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

N = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_log_prob_matches_scipy_into_the_far_tails():
    toy = build_toy("power_law_tail")
    theta = toy.spec.parameters.sample_prior(100, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[:20] *= 1e6
    expected = [
        stats.multivariate_t.logpdf(a, [0, 0], math.exp(0.2 * t[1]) * np.eye(2), df=t[0])
        for a, t in zip(x.numpy(), theta.numpy(), strict=True)
    ]
    np.testing.assert_allclose(toy.log_prob(x, theta).numpy(), expected, rtol=1e-10, atol=1e-10)


def test_integrates_to_one_over_the_box():
    """In polar coordinates, with r = s tan(angle) to reach infinity."""
    toy = build_toy("power_law_tail")
    nodes, weights = np.polynomial.legendre.leggauss(400)
    angle = torch.from_numpy(math.pi / 4 * (nodes + 1))
    for index, log_scale in itertools.product([1.0, 3.0, 8.0], [-14.0, 0.0, 14.0]):
        scale = math.exp(0.1 * log_scale)
        radius = scale * angle.tan()
        x = torch.stack([0.6 * radius, -0.8 * radius], -1)
        jacobian = 2 * math.pi * radius * scale / angle.cos() ** 2 * torch.from_numpy(math.pi / 4 * weights)
        density = toy.log_prob(x, torch.tensor([index, log_scale], dtype=torch.float64)).exp()
        assert (density @ jacobian).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("point", [[1.0, 3.0], [3.0, 0.0], [8.0, -14.0]])
def test_events_follow_scipys_marginals(point):
    """Each feature, and any projection, is a Student t with the same index; the direction is uniform."""
    toy = build_toy("power_law_tail")
    events = toy.sample(torch.tensor(point, dtype=torch.float64).expand(N, -1), generator=generator(2))
    x = events.x.double().numpy() / math.exp(0.1 * point[1])
    for projection in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8]):
        assert stats.kstest(x @ np.array(projection), stats.t(df=point[0]).cdf).pvalue > 1e-4
    assert stats.kstest(np.arctan2(x[:, 1], x[:, 0]), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4


def test_tails_come_together():
    """P(|x2| beyond its quantile given that |x1| is) stays far above independence, by the radial law."""
    x = build_toy("power_law_tail").sample(torch.tensor([1.5, 0.0]).double().expand(N, -1), generator=generator(3)).x.double().abs()
    cut = stats.t(df=1.5).isf(0.005)
    given = (x[:, 1] > cut)[x[:, 0] > cut].double()
    assert given.mean().item() - 5 * given.std().item() / math.sqrt(len(given)) > 0.05


@pytest.mark.parametrize("point", [[3.0, 0.0], [6.0, 4.0]])
def test_score_and_information_in_closed_form(point):
    """w = 1 / (1 + r^2 / (k s^2)) ~ Beta(k/2, 1), whose moments and logarithmic moments are elementary."""
    toy = build_toy("power_law_tail")
    k = point[0]
    theta = torch.tensor(point, dtype=torch.float64)
    x = toy.sample(theta.expand(N, -1), generator=generator(4)).x.double()
    w = 1 / (1 + x.square().sum(-1) * math.exp(-0.2 * point[1]) / k)
    expected = torch.stack([0.5 * w.log() + (0.5 + 1 / k) * (1 - w), 0.1 * (-2 + (k + 2) * (1 - w))], -1)
    score = toy.score(x, theta)
    assert torch.allclose(score, expected, rtol=1e-9, atol=1e-12)
    w1, w2, log1, log2, mixed = k / (k + 2), k / (k + 4), -2 / k, 8 / k**2, -(k / 2) / (k / 2 + 1) ** 2
    a, c = 0.5 + 1 / k, k + 2
    square = 1 - 2 * w1 + w2
    information = torch.tensor(
        [
            [
                0.25 * log2 + a * (log1 - mixed) + a**2 * square,
                0.1 * (-(log1 + 2 * a * (1 - w1)) + c * (0.5 * (log1 - mixed) + a * square)),
            ],
            [0.0, 0.01 * (4 - 4 * c * (1 - w1) + c**2 * square)],
        ],
        dtype=torch.float64,
    )
    products = score.unsqueeze(-1) * score.unsqueeze(-2)
    off = (products.mean(0) - information).abs() / (products.std(0) / math.sqrt(N))
    assert off[0, 0] < 4.5
    assert off[0, 1] < 4.5
    assert off[1, 1] < 4.5


def test_ratios_without_a_variance():
    """From k_a = 6 to k_b = 2 the second moment diverges: 2 k_b <= k_a; the largest ratio then carries much of the sum."""
    toy = build_toy("power_law_tail")
    shares = []
    for index in (2.0, 5.0):
        events = toy.sample(torch.tensor([6.0, 0.0]).double().expand(N, -1), generator=generator(5))
        ratio = toy.log_prob(events.x, torch.tensor([index, 0.0])) - toy.log_prob(events.x, torch.tensor([6.0, 0.0]))
        square = torch.exp(2 * ratio)
        shares.append((square.max() / square.sum()).item())
    assert shares[0] > 0.2 > 0.01 > shares[1]


def test_far_events_and_scores_are_finite():
    toy = build_toy("power_law_tail")
    x = torch.tensor([[0.0, 0.0], [1e30, -1e30], [1e-30, 0.0]], dtype=torch.float64)
    for corner in itertools.product([1.0, 8.0], [-14.0, 14.0]):
        theta = torch.tensor(corner, dtype=torch.float64)
        assert toy.log_prob(x, theta).isfinite().all()
        assert toy.score(x, theta).isfinite().all()


@pytest.mark.parametrize("index", [1.0, 9.0, math.nan])
def test_bad_options(index):
    with pytest.raises(InputError, match="index"):
        build_toy("power_law_tail", index=index)
