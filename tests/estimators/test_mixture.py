"""The conditional Gaussian mixture against torch's own densities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from touchneedle.estimators.mixture import GaussianMixture


@pytest.fixture
def mixture() -> GaussianMixture:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GaussianMixture(3, 2, 4, (16,)).double()


def context(n: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_log_prob_is_that_of_a_mixture_of_multivariate_normals(mixture: GaussianMixture) -> None:
    c, u = context(6), torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    log_weight, mean, factor, _ = mixture._gaussians(c)
    normals = torch.distributions.MultivariateNormal(mean, precision_matrix=factor.mT @ factor)
    expected = (log_weight + normals.log_prob(u[:, None])).logsumexp(-1)
    torch.testing.assert_close(mixture.log_prob(u, c), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.log_prob_grid(u, c).diagonal(), expected, rtol=1e-10, atol=1e-10)


def test_samples_have_the_mean_of_the_density(mixture: GaussianMixture) -> None:
    n = 20_000
    c = context(1).expand(n, -1)
    draws = mixture.sample(c, torch.Generator().manual_seed(3))
    log_weight, mean, _, _ = mixture._gaussians(c[:1])
    expected = (log_weight.exp()[..., None] * mean)[0].sum(0)
    assert ((draws.mean(0) - expected).abs() < 4 * draws.std(0) / n**0.5).all()


def test_importance_weights_between_contexts_average_to_one(mixture: GaussianMixture) -> None:
    n = 20_000
    here, there = (row.expand(n, -1) for row in context(2)[:, None] * 0.3)
    u = mixture.sample(here, torch.Generator().manual_seed(4))
    ratio = (mixture.log_prob(u, there) - mixture.log_prob(u, here)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / n**0.5
    assert ratio.std() > 0.01


def test_second_derivatives_in_u(mixture: GaussianMixture) -> None:
    u = torch.randn(2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    c = context(2)
    assert torch.autograd.gradgradcheck(lambda value: mixture.log_prob(value, c), (u,))
