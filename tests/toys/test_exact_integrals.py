"""Exact toys: normalisation over the theta box, moments of the events, rates, bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

EXACT = ["fnf_two_class", "gaussian_shift", "mass_bump", "two_moons"]
MIXTURES = ["fnf_two_class", "mass_bump"]
N = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def box(toy):
    """Corners of the theta box, and nominal."""
    space = toy.spec.parameters
    corners = itertools.product(*zip(space.low.tolist(), space.high.tolist(), strict=True))
    return [space.nominal, *(torch.tensor(corner, dtype=torch.float64) for corner in corners)]


def gauss_legendre(low, high, n=400):
    """Nodes and weights of n / 20 panels of 20 nodes: single rules of thousands of nodes take seconds to find."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(low, high, n // 20 + 1)
    half = np.diff(edges)[:, None] / 2
    return torch.from_numpy((edges[:-1, None] + half * (nodes + 1)).ravel()), torch.from_numpy((half * weights).ravel())


def events_at(toy, theta, n=N, seed=3):
    return toy.sample(torch.tensor(theta, dtype=torch.float64).expand(n, -1), generator=generator(seed))


def assert_mean(values, expected):
    values = values.double()
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / math.sqrt(len(values))


def test_gaussian_shift_integrates_to_one_over_the_box():
    toy = build_toy("gaussian_shift")
    x, weight = gauss_legendre(-80.0, 80.0, 4_000)
    for theta in box(toy):
        assert (toy.log_prob(x.unsqueeze(-1), theta).exp() @ weight).item() == pytest.approx(1, abs=1e-10)


def test_mass_bump_integrates_to_one_over_the_box():
    toy = build_toy("mass_bump")
    x, weight = gauss_legendre(100.0, 160.0, 4_000)
    for theta in box(toy):
        processes = toy.log_prob_process(x.unsqueeze(-1), theta).exp()
        np.testing.assert_allclose(weight @ processes, [1, 1], atol=1e-10)
        assert (toy.log_prob(x.unsqueeze(-1), theta).exp() @ weight).item() == pytest.approx(1, abs=1e-10)


def test_two_moons_integrates_to_one_over_the_box():
    """Cartesian density integrated in polar coordinates around the crescent's centre."""
    toy = build_toy("two_moons")
    (radius, radius_weight), (angle, angle_weight) = gauss_legendre(0.01, 0.19, 200), gauss_legendre(-math.pi / 2, math.pi / 2, 20)
    r, a = torch.cartesian_prod(radius, angle).T
    weight = torch.cartesian_prod(radius_weight, angle_weight).prod(-1) * r
    for theta in box(toy):
        t1, t2 = theta.tolist()
        centre = torch.tensor([0.25 - abs(t1 + t2) / math.sqrt(2), (t2 - t1) / math.sqrt(2)], dtype=torch.float64)
        x = torch.stack([r * a.cos(), r * a.sin()], -1) + centre
        assert (toy.log_prob(x, theta).exp() @ weight).item() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("distortion", [0.0, 0.2])
@pytest.mark.parametrize("k", [0, 1])
def test_fnf_two_class_integrates_over_y_to_the_kinematic_density(distortion, k):
    """For given x the integral over y is the Gaussian of the kinematics, which is normalised."""
    toy = build_toy("fnf_two_class", distortion=distortion)
    sign, widths = (-1, 1)[k], ((0.9, 0.6), (0.6, 0.4))[k]
    y, weight = gauss_legendre(-60.0, 60.0, 600)
    y = torch.cartesian_prod(y, y)
    weight = torch.cartesian_prod(weight, weight).prod(-1)
    for theta, x1, x2 in [((0.5, 0, 0), 0.3, -0.4), ((0.3, 2.0, -2.0), -1.2, 0.5), ((0.0, -3.0, 2.0), 1.0, -0.2)]:
        x = torch.cat([torch.tensor([x1, x2], dtype=torch.float64).expand(len(y), -1), y], -1)
        found = (toy.log_prob_process(x, torch.tensor(theta, dtype=torch.float64))[:, k].exp() @ weight).item()
        squeeze = math.exp(-0.2 * sign * theta[2])
        expected = stats.norm.pdf(x1, sign * (0.5 + 0.3 * theta[1]), widths[0] * squeeze) * stats.norm.pdf(x2, 0, widths[1] / squeeze)
        assert found == pytest.approx(expected, rel=1e-6)


def test_fnf_two_class_ratios_close_over_the_box():
    """E_{p_a}[p_b/p_a] = 1 between close neighbours at every corner of the box.

    Close, because the score's width shrinks as exp(0.4 x1): farther points no longer overlap there.
    """
    toy = build_toy("fnf_two_class")
    for theta in box(toy):
        near = theta * torch.tensor([1.0, 0.999, 0.999]) + torch.tensor([0.0, 0.003, -0.003])
        near = near.clamp(toy.spec.parameters.low, toy.spec.parameters.high)
        events = toy.sample(theta.expand(N, -1), generator=generator(5))
        ratio = torch.exp(toy.log_prob(events.x, near) - toy.log_prob(events.x, theta))
        assert ratio.std() > 1e-3
        assert_mean(ratio, 1.0)


def test_gaussian_shift_moments():
    events = events_at(build_toy("gaussian_shift"), [0.5, 2.0, -1.0])
    x = events.x[:, 0].double()
    assert_mean(x, 0.6)
    assert_mean((x - 0.6) ** 2, math.exp(-0.2))


@pytest.mark.parametrize("theta", [[0.3, 0.0, 0.0], [0.6, 1.5, -2.0], [0.05, -4.0, 4.0]])
def test_mass_bump_moments(theta):
    events = events_at(build_toy("mass_bump"), theta)
    mass, signal = events.x[:, 0].double(), events.label == 0
    mean, width = 125 * (1 + 0.01 * theta[1]), 2 * math.exp(0.2 * theta[2])
    peak = stats.truncnorm((100 - mean) / width, (160 - mean) / width, mean, width)
    falling = stats.truncexpon(b=1.8, loc=100, scale=1 / 0.03)
    assert_mean(signal.double(), theta[0])
    for mask, truth in ((signal, peak), (~signal, falling)):
        assert_mean(mass[mask], truth.mean())
        assert_mean((mass[mask] - truth.mean()) ** 2, truth.var())


def test_two_moons_moments():
    events = events_at(build_toy("two_moons"), [0.5, -0.2])
    z = events.x.double() - torch.tensor([0.25 - 0.3 / math.sqrt(2), -0.7 / math.sqrt(2)])
    assert_mean(z[:, 0], 0.1 * 2 / math.pi)
    assert_mean(z[:, 1], 0.0)
    assert_mean(z.square().sum(-1), 0.1**2 + 0.01**2)
    assert_mean(z.norm(dim=-1), 0.1)


@pytest.mark.parametrize("theta", [[0.5, 0.0, 0.0], [0.2, 1.0, -2.0]])
def test_fnf_two_class_moments(theta):
    events = events_at(build_toy("fnf_two_class"), theta)
    assert_mean(events.label.double(), theta[0])
    for k, sign, widths in ((0, -1, (0.9, 0.6)), (1, 1, (0.6, 0.4))):
        x1, x2, y0, y1 = events.x[events.label == k].double().T
        squeeze = math.exp(-0.2 * sign * theta[2])
        centre = sign * (0.5 + 0.3 * theta[1])
        assert_mean(x1, centre)
        assert_mean((x1 - centre) ** 2, (widths[0] * squeeze) ** 2)
        assert_mean(x2**2, (widths[1] / squeeze) ** 2)
        move = 0.3 * sign * theta[1] * torch.tanh(x1)
        pull0 = (y0 - torch.sin(1.5 * x1) - 0.3 * x2 - move) / (torch.log1p(torch.exp(0.4 * x1 + 0.1)) / squeeze)
        pull1 = (y1 - 0.3 * x1**2 + 1.2 - 0.5 * torch.sin(x2) + move) / (torch.log1p(torch.exp(0.4 - 0.2 * x1)) * squeeze)
        for pull in (pull0, pull1):
            assert_mean(pull, 0.0)
            assert_mean(pull**2, 1.0)
        assert_mean(pull0 * pull1 - 0.8 * torch.tanh(0.5 * (x1 + x2)), 0.0)


@pytest.mark.parametrize("distortion", [0.2, -0.5])
def test_distorted_events_follow_the_distorted_density(distortion):
    """A wrong inverse or Jacobian would shift the mean score from zero."""
    toy = build_toy("fnf_two_class", distortion=distortion)
    theta = torch.tensor([0.4, 0.7, -0.7], dtype=torch.float64)
    events = toy.sample(theta.expand(N, -1), generator=generator(7))
    for column in toy.score(events.x, theta).T:
        assert_mean(column, 0.0)


@pytest.mark.parametrize("name", MIXTURES)
def test_rates_and_labels(name):
    toy = build_toy(name, fit_events=500)
    space = toy.spec.parameters
    theta = space.nominal.expand(2, -1).clone()
    theta[1, 0] = 0.25
    assert toy.fit_events == 500
    assert torch.allclose(toy.expected_events(theta), torch.full((2,), 500.0, dtype=torch.float64))
    assert toy.rates(theta)[1].tolist() == ([125.0, 375.0] if name == "mass_bump" else [375.0, 125.0])


@pytest.mark.parametrize("name", ["gaussian_shift", "two_moons"])
def test_single_process_rates_are_constant(name):
    toy = build_toy(name, fit_events=250)
    assert toy.rates(toy.spec.parameters.sample_prior(3, generator())).tolist() == [[250.0]] * 3
    assert toy.sample(toy.spec.parameters.sample_prior(3, generator()), generator=generator()).label is None


def test_parameters_stand_in_their_order():
    orders = {name: build_toy(name).spec.parameters for name in EXACT}
    assert orders["gaussian_shift"].names == ("shift", "offset", "log_scale")
    assert orders["mass_bump"].names == ("fraction", "mass_scale", "resolution")
    assert orders["fnf_two_class"].names == ("fraction_b", "shift", "squeeze")
    assert all(space.interest[0] == 0 for space in orders.values())
    assert orders["two_moons"].nuisance == ()
    assert [build_toy(name).regular for name in EXACT] == [True, True, True, False]


@pytest.mark.parametrize("name", EXACT)
def test_name_and_float32_events(name):
    toy = build_toy(name)
    events = toy.sample(toy.spec.parameters.sample_prior(10, generator()), generator=generator())
    assert toy.spec.name == name
    assert (events.x.dtype, events.theta.dtype) == (torch.float32, torch.float64)
    assert events.weight.tolist() == [1.0] * 10


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gaussian_shift", {"s0": 0.0}, "s0"),
        ("gaussian_shift", {"fit_events": -1}, "fit_events"),
        ("gaussian_shift", {"sigma": 1.0}, "unknown option 'sigma'"),
        ("mass_bump", {"slope": 0.0}, "slope"),
        ("mass_bump", {"width": math.nan}, "width"),
        ("mass_bump", {"peak": 90.0}, "low < peak < high"),
        ("mass_bump", {"fraction": 1.0}, "fraction"),
        ("mass_bump", {"low": "here"}, "low"),
        ("two_moons", {"radius_std": 0.05}, "radius_std"),
        ("fnf_two_class", {"distortion": "strong"}, "distortion"),
    ],
)
def test_bad_options_end_in_one_line(name, options, words):
    with pytest.raises(InputError, match=words) as caught:
        build_toy(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EXACT)
def test_theta_outside_its_bounds_is_refused(name):
    toy = build_toy(name)
    theta = toy.spec.parameters.nominal.clone()
    theta[0] = toy.spec.parameters.high[0] + 0.1
    with pytest.raises(InputError, match=toy.spec.parameters.names[0]):
        toy.sample(theta.unsqueeze(0), generator=generator())
    with pytest.raises(InputError, match=toy.spec.parameters.names[0]):
        toy.log_prob(torch.zeros(1, toy.spec.x_dim), theta)
