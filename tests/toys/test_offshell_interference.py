"""offshell_interference against rotation matrices and complex amplitudes in numpy: density, yields, events, gold, two minima."""

import itertools
import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy import integrate, linalg, stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit
from touchneedle.toys.base import Events, build_toy
from touchneedle.toys.mixture import latent_truth

N = 40_000
NOMINAL = (1.0, 0.0, 0.0, 0.0)
POINTS = [NOMINAL, (0.08, 1.0, -2.0, 1.0), (3.0, -4.0, 3.0, -2.0)]
CORNERS = list(itertools.product((0.01, 4.0), (-14.0, 14.0), (-14.0, 14.0), (-14.0, 14.0)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# A second implementation.


def amplitudes(mass):
    """Of signal and continuum, each (3, n) for helicities -1, 0, 1, with flux and phase space."""
    s = mass**2
    flux = np.sqrt(np.sqrt(1 - 4 * 91.1876**2 / s) * np.exp(-mass / 95) / s)
    growth, form = s / (2 * 91.1876**2) - 1, 1 / (1 + (mass / 700) ** 2)
    propagator = s / (s - 125**2)
    transverse = (2 * 91.1876 / mass) ** 2
    signal = propagator * form * np.array([np.ones_like(mass), -growth, np.ones_like(mass)])
    return flux * signal, flux * np.array([1.3 * transverse, 0.66 * growth * form * (1 + 60 / mass), 1.6 * transverse])


def rotated(cosine):
    """d^1 (3, 3) by the exponential of J_y; rows are helicities -1, 0, 1 of the boson, columns those of the leptons."""
    raising = np.diag([math.sqrt(2), math.sqrt(2)], -1)
    return linalg.expm(-1j * math.acos(cosine) * (raising - raising.T) / 2j).real


def coherent(x, first, second):
    """Squared sums over helicities of the bosons of amplitudes (3,), averaged over those of the leptons."""
    one, other = rotated(x[1]), rotated(x[2])
    total = 0.0
    for l1, l2 in itertools.product((0, 2), repeat=2):
        share = (0.575 if l1 == 0 else 0.425) * (0.575 if l2 == 0 else 0.425)
        wave = np.exp(1j * np.array([-1, 0, 1]) * x[3])
        total += share * abs(((first + second) * one[:, l1] * other[:, l2] * wave).sum()) ** 2
    return 9 / (8 * math.pi) * total


@cache
def over_mass(first, second):
    """Integral of the product of two amplitudes over the mass."""
    pair = (first, second)
    return integrate.quad(lambda m: (amplitudes(m)[pair[0]] * amplitudes(m)[pair[1]]).sum(), 190, 1_000, epsrel=1e-12)[0]


def factors(theta):
    """sqrt(mu), complex size of the continuum, and background over signal."""
    return math.sqrt(theta[0]), math.exp(0.1 * theta[2]) * np.exp(1j * (0.35 + 0.15 * theta[1])), 4 * math.exp(0.05 * theta[3])


def gluon_yield(root, size):
    """Over the signal's at mu = 1."""
    return root**2 + (2 * root * size.real * over_mass(0, 1) + abs(size) ** 2 * over_mass(1, 1)) / over_mass(0, 0)


def density(x, theta):
    """Differential yields of gluon fusion and background over the signal's yield at mu = 1, and the total yield."""
    root, size, background = factors(theta)
    signal, continuum = amplitudes(x[0])
    gluon = coherent(x, root * signal, size * continuum) / over_mass(0, 0)
    falling = stats.truncexpon.pdf(x[0], b=810 / 45, loc=190, scale=45)
    other = background * falling * 9 / 64 * (1 + x[1] ** 2) * (1 + x[2] ** 2) / (2 * math.pi)
    return gluon, other, gluon_yield(root, size) + background


def grid(mass=40, cos1=4, cos2=4, azimuth=8, panels=(1, 1, 1, 1)):
    """Nodes (k, 4) and weights: panels of Gauss-Legendre rules, in the azimuth as well if it has several panels."""
    axes = []
    for n, p, (low, high) in zip((mass, cos1, cos2, azimuth), panels, [(190, 1_000), (-1, 1), (-1, 1), (-math.pi, math.pi)], strict=True):
        nodes, weights = np.polynomial.legendre.leggauss(n)
        if (low, p) == (-math.pi, 1):
            nodes, weights = (2 * np.arange(n) + 1) / n - 1, np.full(n, 2 / n)
        half = (high - low) / p / 2
        centres = low + half * (2 * np.arange(p) + 1)
        axes.append(((centres[:, None] + half * nodes).ravel(), np.tile(half * weights, p)))
    x, weight = (torch.cartesian_prod(*(torch.from_numpy(axis[i]) for axis in axes)) for i in (0, 1))
    return x, weight.prod(-1)


def test_log_prob_matches_rotation_matrices_and_complex_amplitudes():
    toy = build_toy("offshell_interference")
    theta = toy.spec.parameters.sample_prior(25, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    expected = [density(a, t) for a, t in zip(x.numpy(), theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob(x, theta), [math.log((g + b) / total) for g, b, total in expected], rtol=1e-8, atol=1e-8)


def test_integrates_to_one_over_the_box():
    toy = build_toy("offshell_interference")
    x, weight = grid(mass=60)
    for theta in [*POINTS, *CORNERS]:
        theta = torch.tensor(theta, dtype=torch.float64)
        assert (toy.log_prob(x, theta).exp() @ weight).item() == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(weight @ toy.log_prob_process(x, theta).exp(), np.ones(4), atol=1e-9)


def test_integrates_to_one_over_the_widest_window():
    """Phase space begins at 182.4 GeV: the square root makes other rules slow, so that the mass is 182.4 + t^2 here."""
    toy = build_toy("offshell_interference", low=185.0, high=2_000.0)
    nodes, weights = np.polynomial.legendre.leggauss(120)
    ends = np.sqrt(np.array([185.0, 2_000.0]) - 2 * 91.1876)
    root = ends[0] + (ends[1] - ends[0]) / 2 * (nodes + 1)
    x, weight = grid(mass=120)
    x[:, 0] = torch.from_numpy(2 * 91.1876 + root**2).repeat_interleave(len(x) // 120)
    weight *= torch.from_numpy((ends[1] - ends[0]) * root * weights / (405 * weights)).repeat_interleave(len(x) // 120)
    assert (toy.log_prob(x, toy.spec.parameters.nominal).exp() @ weight).item() == pytest.approx(1, abs=1e-9)


def test_yield_against_adaptive_quadrature_falls_and_rises():
    """sigma(mu) / sigma(0) of gluon fusion, for which the amplitude sqrt(mu) interferes destructively."""
    toy = build_toy("offshell_interference", fit_events=500)
    mu = [0.0, 0.25, 1.0, 2.0]
    theta = torch.tensor([[m, 0.0, 0.0, 0.0] for m in mu], dtype=torch.float64)
    gluon = toy.rates(theta)[:, :3].sum(-1)
    expected = np.array([gluon_yield(math.sqrt(m), np.exp(0.35j)) for m in mu])
    np.testing.assert_allclose(gluon / gluon[0], expected / expected[0], rtol=1e-9)
    assert gluon[1] < 0.7 * gluon[0]
    assert gluon[3] > 2 * gluon[0]
    for point in POINTS:
        root, size, background = factors(point)
        total = gluon_yield(root, size) + background
        nominal = gluon_yield(1.0, np.exp(0.35j)) + 4
        found = toy.expected_events(torch.tensor([point], dtype=torch.float64)).item()
        assert found == pytest.approx(500 * total / nominal, rel=1e-9)
    assert (toy.rates(torch.tensor([[3.0, 0, 0, 0], [0.5, 0, 0, 0]])) > 0).tolist() == [
        [True, True, False, True],
        [False, True, True, True],
    ]


@pytest.mark.parametrize("theta", POINTS)
def test_every_feature_follows_its_density(theta):
    toy = build_toy("offshell_interference")
    theta = torch.tensor(theta, dtype=torch.float64)
    events = toy.sample(theta.expand(N, -1), generator=generator(2)).x.double()
    for column, shape in enumerate([{"mass": 4}, {"cos1": 3, "mass": 40}, {"cos2": 3, "mass": 40}, {"azimuth": 4, "mass": 40}]):
        bins = [1, 1, 1, 1]
        bins[column] = 20
        x, weight = grid(**shape, panels=tuple(bins))
        low, high = toy.spec.features[column].support
        edges = np.linspace(low, high, 21)
        if column == 0:
            edges = 190 + (edges - 190) / 4
            x, weight = x.clone(), weight / 4
            x[:, 0] = 190 + (x[:, 0] - 190) / 4
        share = np.histogram(x[:, column], edges, weights=toy.log_prob(x, theta).exp() * weight)[0]
        found = np.histogram(events[:, column], edges)[0]
        share, found = np.append(share, 1 - share.sum()), np.append(found, N - found.sum())
        keep = share * N > 10
        assert keep.sum() >= 20
        assert stats.chisquare(found[keep], share[keep] * found[keep].sum() / share[keep].sum()).pvalue > 1e-4


def test_ratios_close_and_interference_takes_both_signs():
    """E[r] = 1, and the share of events whose interference is negative is that of the density."""
    toy = build_toy("offshell_interference")
    nominal = toy.spec.parameters.nominal
    x = toy.sample(nominal.expand(N, -1), generator=generator(3)).x
    for other in [(0.5, 0, 0, 0), (2.0, 0, 0, 0), (1.0, 2.0, 0, 0), (1.0, 0, -2.0, 3.0)]:
        ratio = toy.log_ratio(x, torch.tensor(other, dtype=torch.float64)).exp()
        assert ratio.std() > 0.01
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(N)

    yields = torch.tensor([1, gluon_yield(1, np.exp(0.35j)), over_mass(1, 1) / over_mass(0, 0), 4])

    def negative(x):
        signal, both, continuum, _ = (toy.log_prob_process(x, nominal).exp() * yields).unbind(-1)
        return (both < signal + continuum).double()

    points, weight = grid(mass=20, cos1=16, cos2=16, azimuth=12)
    share = (negative(points) @ (weight * toy.log_prob(points, nominal).exp())).item()
    found = negative(x)
    assert 0.4 < share < 0.7
    # The edges of an indicator fall between nodes: half a per cent.
    assert abs(found.mean().item() - share) < 4 * found.std().item() / math.sqrt(N) + 0.005


def test_score_of_mu_in_closed_form():
    """d log p / d mu = (S + I / (2 sqrt mu)) / p less its mean, from the processes."""
    toy = build_toy("offshell_interference")
    theta = torch.tensor([0.4, 1.0, -1.0, 2.0], dtype=torch.float64)
    x = toy.sample(theta.expand(200, -1), generator=generator(4)).x
    process = toy.log_prob_process(x, theta).exp() * toy.rates(theta[None])
    root = math.sqrt(0.4)
    slope = torch.tensor([(1 - 0.5 / root) / (0.4 - root), 0.5 / 0.4, -0.5 / root / (1 - root), 0], dtype=torch.float64)
    total = toy.rates(theta[None])[0]
    expected = (process @ slope) / process.sum(-1) - (total @ slope) / total.sum()
    assert torch.allclose(toy.score(x, theta)[:, 0], expected, rtol=1e-8, atol=1e-8)


def test_joint_truth_averages_over_the_latent_class_to_the_marginal_truth():
    """E[joint score | x] = score, and E_theta_0[joint ratio | x] = ratio (arXiv:1805.00020, eqs. 6 and 7)."""
    toy = build_toy("offshell_interference")
    events = toy.sample(toy.spec.parameters.sample_prior(50, generator()), generator=generator(1))
    x, theta, nominal = events.x.double(), events.theta, toy.spec.parameters.nominal
    classes = [partial(toy._log_joint, x, torch.full((50,), background)) for background in (False, True)]
    truths = [latent_truth(log_joint, theta, nominal) for log_joint in classes]

    def posterior(at):
        parts = [density(a, t)[:2] for a, t in zip(x.numpy(), at.expand(50, -1).numpy(), strict=True)]
        return torch.tensor([[g / (g + b), b / (g + b)] for g, b in parts])

    score = sum(posterior(theta)[:, k : k + 1] * truths[k][1] for k in (0, 1))
    ratio = sum(posterior(nominal)[:, k] * truths[k][0].exp() for k in (0, 1))
    assert torch.allclose(score, toy.score(x, theta), rtol=1e-7, atol=1e-7)
    assert torch.allclose(ratio.log(), toy.log_ratio(x, theta), rtol=1e-7, atol=1e-7)
    assert (events.joint_score - toy.score(x, theta)).abs().max() > 0.1
    is_one = [(events.joint_log_ratio - ratio).abs() < 1e-9 for ratio, _ in truths]
    assert (is_one[0] | is_one[1]).all()
    assert 5 < int(is_one[0].sum()) < 45


def test_a_fit_of_expected_events_has_two_minima():
    """One at the truth, one at a small mu, close to where the likelihood with nuisances at nominal has it."""
    toy = build_toy("offshell_interference")
    nominal, n = toy.spec.parameters.nominal, toy.fit_events
    x, weight = grid(mass=30, cos1=3, cos2=3, azimuth=6)
    share = toy.log_prob(x, nominal).exp() * weight
    mu = torch.linspace(0.02, 1.4, 70, dtype=torch.float64)
    theta = torch.cat([mu.unsqueeze(-1), torch.zeros(70, 3, dtype=torch.float64)], -1)
    rate = toy.expected_events(theta)
    curve = -2 * (n * torch.stack([share @ toy.log_ratio(x, t) for t in theta]) + n * torch.log(rate / n) - rate + n)
    low = (curve[1:-1] < curve[:-2]) & (curve[1:-1] < curve[2:])
    oracle = build_estimator("oracle", toy.spec, truth=toy).double()
    result = fit(Likelihood(oracle, toy.rates), Events(x, nominal.expand(len(x), -1), n * share), starts=4)
    best, rival = result.minima
    assert torch.allclose(best.theta, nominal, atol=1e-3)
    assert mu[1:-1][low].tolist() == pytest.approx([rival.theta[0].item(), 1.0], abs=0.04)
    # Profiled nuisances bring it nearer.
    assert 1 < rival.distance < curve[1:-1][low][0] < 9
    assert not toy.regular


def test_support_edges_and_samples_of_one_class():
    toy = build_toy("offshell_interference", background=1e-9)
    outside = torch.tensor([[189.9, 0, 0, 0], [1_001.0, 0, 0, 0], [300.0, 1.01, 0, 0], [300.0, 0, 0, 3.2]])
    edges = torch.tensor([[190.0, 1, 1, 0], [1_000.0, -1, 1, 3.14], [200.0, 1, -1, -3.14]])
    assert (toy.log_prob(outside, toy.spec.parameters.nominal) == -math.inf).all()
    for theta in CORNERS:
        theta = torch.tensor(theta, dtype=torch.float64)
        assert toy.log_prob(edges, theta).isfinite().all()
        assert toy.score(torch.cat([outside, edges]), theta).isfinite().all()
    for background in (1e-9, 1e9):
        toy = build_toy("offshell_interference", background=background)
        events = toy.sample(toy.spec.parameters.nominal.expand(20, -1), generator=generator())
        assert toy.log_prob(events.x, events.theta).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"), [({"low": 180.0}, "185"), ({"high": 150.0}, "low < high"), ({"background": 0.0}, "background"), ({"a": "x"}, "a")]
)
def test_bad_options_end_in_one_line(options, words):
    with pytest.raises(InputError, match=words) as caught:
        build_toy("offshell_interference", **options)
    assert "\n" not in str(caught.value)
