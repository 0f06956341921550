"""Dirichlet fractions: scipy's density, Gauss-Jacobi normalisation, digamma scores, trigamma information, gamma draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.gamma_draws import draw_log_gamma

N = 60_000
NOMINAL = [0.7, 1.5, 2.0, 3.0]
CORNERS = [(0.0, 0.0), *itertools.product((-0.5, 0.5), (-14.0, 14.0))]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(values):
    return torch.tensor(values, dtype=torch.float64)


def alpha_at(theta, alpha=NOMINAL):
    scaled = np.array(alpha) * math.exp(0.1 * theta[1])
    scaled[0] *= math.exp(theta[0])
    return scaled


def assert_mean(values, expected):
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("alpha", [NOMINAL, [0.3, 0.4], [0.2, 5.0, 0.5], [8.0, 9.0, 1.0, 2.0, 0.6, 4.0]])
def test_density_matches_scipy(alpha):
    toy = build_toy("dirichlet_fractions", alpha=alpha)
    theta = toy.spec.parameters.sample_prior(100, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    rows = zip(np.column_stack([x, 1 - x.sum(-1)]), theta.numpy(), strict=True)
    expected = [stats.dirichlet.logpdf(f, alpha_at(t, alpha)) for f, t in rows]
    np.testing.assert_allclose(toy.log_prob(x, theta), expected, rtol=1e-9, atol=1e-9)


def jacobi(low, high, n=8):
    """Nodes and weights of int_0^1 t^low (1 - t)^high f(t) dt."""
    nodes, weight = special.roots_jacobi(n, high, low)
    return (nodes + 1) / 2, weight / 2 ** (low + high + 1)


@pytest.mark.parametrize("theta", CORNERS)
@pytest.mark.parametrize("alpha", [[0.7, 1.5, 2.0], [0.3, 0.25, 0.5], [5.0, 0.9, 0.15]])
def test_density_integrates_to_one_over_the_box(theta, alpha):
    """Stick breaking, x1 = t1 and x2 = (1 - t1) t2; the singular weight functions go into the quadrature."""
    toy = build_toy("dirichlet_fractions", alpha=alpha)
    a = alpha_at(theta, alpha)
    (t1, w1), (t2, w2) = jacobi(a[0] - 1, a[1] + a[2] - 1), jacobi(a[1] - 1, a[2] - 1)
    t1, t2 = np.meshgrid(t1, t2, indexing="ij")
    x = torch.from_numpy(np.stack([t1, (1 - t1) * t2], -1).reshape(-1, 2))
    log_weight = (a[0] - 1) * np.log(t1) + (a[1] + a[2] - 1) * np.log1p(-t1) + (a[1] - 1) * np.log(t2) + (a[2] - 1) * np.log1p(-t2)
    rest = np.exp(toy.log_prob(x, point(theta)).numpy().reshape(t1.shape) + np.log1p(-t1) - log_weight)
    assert w1 @ rest @ w2 == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("theta", CORNERS)
def test_moments(theta):
    """Means, and means of logarithms, in closed form."""
    toy = build_toy("dirichlet_fractions")
    x = toy.sample(point(theta).expand(N, -1), generator=generator(2)).x.double()
    a = alpha_at(theta)
    for i, column in enumerate(x.T):
        assert_mean(column, a[i] / a.sum())
        assert_mean(column**2, a[i] * (a[i] + 1) / (a.sum() * (a.sum() + 1)))
        if a[i] > 0.5:
            assert_mean(column.log(), special.digamma(a[i]) - special.digamma(a.sum()))
    assert_mean(x[:, 0] * x[:, 1], a[0] * a[1] / (a.sum() * (a.sum() + 1)))
    assert ((x > 0).all(-1) & (x.sum(-1) < 1)).all()


def test_score_by_digamma_and_information_by_trigamma():
    toy, theta = build_toy("dirichlet_fractions"), (0.3, -1.2)
    x = toy.sample(point(theta).expand(N, -1), generator=generator(3)).x.double()
    a, fractions = alpha_at(theta), np.column_stack([x, 1 - x.sum(-1)])
    slopes = special.digamma(a.sum()) - special.digamma(a) + np.log(fractions)
    directions = np.stack([[a[0], 0, 0, 0], 0.1 * a])
    score = toy.score(x, point(theta))
    np.testing.assert_allclose(score, slopes @ directions.T, rtol=1e-9, atol=1e-9)
    information = directions @ (np.diag(special.polygamma(1, a)) - special.polygamma(1, a.sum())) @ directions.T
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_mean(score[:, i] * score[:, j], information[i, j])


def test_edges_and_outside():
    toy = build_toy("dirichlet_fractions", alpha=[0.5, 1.0, 0.4])
    near = point([[1e-300, 0.5], [0.5, 0.5 - 2e-16], [1e-37, 1e-37]])
    outside = point([[0.0, 0.5], [-0.1, 0.5], [0.6, 0.4], [0.7, 0.7], [1.0, 0.0], [math.inf, 0.5]])
    for theta in CORNERS:
        assert toy.log_prob(near, point(theta)).isfinite().all()
        assert toy.score(near, point(theta)).isfinite().all()
        assert (toy.log_prob(outside, point(theta)) == -math.inf).all()
        assert not toy.score(outside, point(theta)).isnan().any()


def test_small_concentrations_stay_inside_in_float32():
    toy = build_toy("dirichlet_fractions", alpha=[0.05, 0.05, 0.05])
    events = toy.sample(point([0.0, 0.0]).expand(20_000, -1), generator=generator(4))
    assert toy.log_prob(events.x, events.theta).isfinite().all()


@pytest.mark.parametrize("shape", [0.02, 0.7, 1.0, 3.3, 500.0])
def test_gamma_draws(shape):
    draws = draw_log_gamma(torch.full((20_000,), shape, dtype=torch.float64), generator(5))
    assert stats.kstest(draws.numpy(), stats.loggamma(shape).cdf).pvalue > 1e-4


def test_batch_invariance():
    toy = build_toy("dirichlet_fractions")
    theta = toy.spec.parameters.sample_prior(10, generator())
    x = toy.sample(theta, generator=generator(6)).x
    singly = torch.cat([toy.log_prob(a[None], t) for a, t in zip(x, theta, strict=True)])
    assert torch.allclose(toy.log_prob(x, theta), singly, rtol=1e-13)


@pytest.mark.parametrize(
    ("options", "words"), [({"alpha": [1.0]}, "at least 2"), ({"alpha": [1.0, 0.0]}, r"alpha\[1\]"), ({"fit_events": 0}, "fit")]
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("dirichlet_fractions", **options)
