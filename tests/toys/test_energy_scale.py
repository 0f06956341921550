"""The energy-scale toy: an unshifted density pushed through the shift by hand, acceptances by scipy, edges that stay."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy
from touchneedle.toys.mixture import joint_truth

N = 20_000
PT = (stats.lognorm(s=0.35, scale=42), stats.lognorm(s=0.35, scale=32))
MASS = (stats.lognorm(s=0.2, scale=90), stats.lognorm(s=0.2, scale=68))
MET = ((10, 0.4, 15), (0, 0.3, 12))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def acceptance(k, energy_scale):
    """The cuts seen from before the shift."""
    s = math.exp(0.02 * energy_scale)
    low, high = 50 / math.sqrt(s), 130 / math.sqrt(s)
    return PT[k].sf(26 / s) * (MASS[k].cdf(high) - MASS[k].cdf(low))


def component(x, k, energy_scale):
    """p_0 at the unshifted event, times the numerical determinant of the inverse shift."""
    s = math.exp(0.02 * energy_scale)

    def unshift(x):
        return np.array([x[0] / s, x[1] + (s - 1) * x[0] / s, x[2] / math.sqrt(s)])

    pt, met, mass = unshift(x)
    determinant = np.linalg.det(np.stack([unshift(column) for column in np.eye(3)], -1))
    offset, slope, width = MET[k]
    density = PT[k].pdf(pt) * stats.norm.pdf(met, offset + slope * pt, width) * MASS[k].pdf(mass)
    return density * determinant / acceptance(k, energy_scale)


def expected_rates(mu, energy_scale, background_norm):
    signal = 200 * mu * acceptance(0, energy_scale) / acceptance(0, 0)
    return np.array([signal, 800 * math.exp(0.05 * background_norm) * acceptance(1, energy_scale) / acceptance(1, 0)])


def test_log_prob_matches_the_pushed_forward_density():
    toy = build_toy("energy_scale")
    theta = toy.spec.parameters.sample_prior(40, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    x[:4] = torch.tensor([[26.0, -40.0, 50.0], [400.0, 0.0, 130.0], [2_000.0, 700.0, 100.0], [26.0, 20.0, 130.0]])
    for row, t, found in zip(x.numpy(), theta.numpy(), toy.log_prob(x, theta).tolist(), strict=True):
        rates = expected_rates(*t)
        expected = rates @ [component(row, k, t[1]) for k in (0, 1)] / rates.sum()
        assert found == pytest.approx(math.log(expected), abs=1e-9)


def test_rates_follow_the_acceptance():
    toy = build_toy("energy_scale")
    points = [(1.0, 0.0, 0.0), (0.0, 14.0, -14.0), (3.0, -14.0, 14.0), (0.7, 1.0, 0.5)]
    found = toy.rates(torch.tensor(points, dtype=torch.float64))
    np.testing.assert_allclose(found, [expected_rates(*point) for point in points], rtol=1e-10)
    assert found[0].sum().item() == pytest.approx(toy.fit_events, rel=1e-12)
    assert found[3].sum() > 200 * 0.7 + 800 * math.exp(0.025)


def test_integrates_to_one_over_the_box():
    """met is integrated around its mean, pt to 26 exp(2.8) (8 standard deviations), mass across its window."""
    toy = build_toy("energy_scale")
    nodes, weights = np.polynomial.legendre.leggauss(48)
    log_pt, mass, pull = math.log(26) + 1.9 * (nodes + 1), 90 + 40 * nodes, 8 * nodes
    grid = torch.cartesian_prod(*(torch.from_numpy(axis) for axis in (log_pt, mass, pull)))
    weight = torch.cartesian_prod(*(torch.from_numpy(w * weights) for w in (1.9, 40.0, 8.0))).prod(-1)
    pt = grid[:, 0].exp()
    for corner in [(0.0, -14.0, 14.0), (3.0, 14.0, -14.0), (1.0, 0.0, 0.0)]:
        theta = torch.tensor(corner, dtype=torch.float64)
        s = math.exp(0.02 * corner[1])
        for k, (offset, slope, width) in enumerate(MET):
            x = torch.stack([pt, offset + slope * pt / s - (1 - 1 / s) * pt + width * grid[:, 2], grid[:, 1]], -1)
            density = toy.log_prob_process(x, theta)[:, k].exp()
            assert (density @ (weight * pt * width)).item() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("point", [[1.0, 0.0, 0.0], [3.0, -10.0, 3.0], [0.2, 10.0, -8.0]])
def test_events_are_shifted_and_cut(point):
    """The events of another generator: shift first, then cut."""
    toy = build_toy("energy_scale")
    theta = torch.tensor(point, dtype=torch.float64)
    events = toy.sample(theta.expand(N, -1), generator=generator(3))
    rng, s = np.random.default_rng(0), math.exp(0.02 * point[1])
    share = expected_rates(*point)[1] / expected_rates(*point).sum()
    assert abs(events.label.double().mean().item() - share) < 4 * math.sqrt(share * (1 - share) / N)
    for k, (offset, slope, width) in enumerate(MET):
        pt, mass = PT[k].rvs(5 * N, random_state=rng), MASS[k].rvs(5 * N, random_state=rng)
        met = offset + slope * pt + width * rng.standard_normal(5 * N)
        shifted = np.stack([s * pt, met - (s - 1) * pt, math.sqrt(s) * mass], -1)
        kept = shifted[(shifted[:, 0] > 26) & (shifted[:, 2] > 50) & (shifted[:, 2] < 130)]
        drawn = events.x[events.label == k].numpy()
        for a, b in [*zip(drawn.T, kept.T, strict=True), (drawn[:, 1] / drawn[:, 0], kept[:, 1] / kept[:, 0])]:
            assert stats.ks_2samp(a, b).pvalue > 1e-4


def test_information_of_the_scale_holds_both_edges():
    """Bartlett: the variance of the score is minus the mean of its slope, renormalised acceptance included."""
    toy = build_toy("energy_scale")
    theta = torch.tensor([1.5, 0.5, -0.5], dtype=torch.float64)
    x = toy.sample(theta.expand(N, -1), generator=generator(4)).x
    step = 1e-4
    for column in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[column] = step
        slope = (toy.score(x, theta + shift) - toy.score(x, theta - shift))[:, column] / (2 * step)
        total = toy.score(x, theta)[:, column] ** 2 + slope
        assert abs(total.mean().item()) < 4.5 * total.std().item() / math.sqrt(N)


def test_events_carry_the_joint_truth_of_their_process():
    toy = build_toy("energy_scale")
    events = toy.sample(toy.spec.parameters.sample_prior(30, generator()), generator=generator(1))
    log_ratio, score = joint_truth(toy, events.x, events.label, events.theta)
    assert torch.equal(events.joint_log_ratio, log_ratio)
    assert torch.equal(events.joint_score, score)


def test_edges_stay_where_they_are():
    toy = build_toy("energy_scale")
    outside = torch.tensor([[25.9, 0.0, 90.0], [30.0, 0.0, 49.9], [30.0, 0.0, 130.1], [-1.0, 0.0, -1.0]])
    edges = torch.tensor([[26.0, 0.0, 50.0], [26.0, 0.0, 130.0], [1e4, 1e4, 90.0]])
    for corner in itertools.product([0.0, 3.0], [-14.0, 14.0], [-14.0, 14.0]):
        theta = torch.tensor(corner, dtype=torch.float64)
        assert (toy.log_prob(outside, theta) == -math.inf).all()
        assert toy.log_prob(edges, theta).isfinite().all()
        assert toy.score(torch.cat([outside, edges]), theta).isfinite().all()
        drawn = toy.sample(theta.expand(500, -1), generator=generator()).x
        assert toy.log_prob(drawn, theta).isfinite().all()


@pytest.mark.parametrize(("options", "words"), [({"fraction": 0.0}, "fraction"), ({"fit_events": 0}, "fit_events")])
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        build_toy("energy_scale", **options)
