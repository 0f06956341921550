"""Exact toys: tails, scores in closed form, latent truth."""

import itertools
import math

import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from touchneedle.toys.base import build_toy
from touchneedle.toys.mixture import joint_truth, mixture_log_prob
from touchneedle.toys.normal_mass import log_normal_mass

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


def events_at(toy, theta, n=N, seed=3):
    return toy.sample(torch.tensor(theta, dtype=torch.float64).expand(n, -1), generator=generator(seed))


FAR = {
    "gaussian_shift": [[1e6], [-1e6]],
    "mass_bump": [[100.0], [160.0]],
    "two_moons": [[1e3, 1e3], [0.2500001 - 2, -1e3]],
    "fnf_two_class": [[100.0, 0, 0, 0], [-100.0, 5, 1e3, -1e3], [0, 300, 0, 0], [-60, -60, -60, -60]],
}


@pytest.mark.parametrize("name", EXACT)
def test_far_events_are_finite_with_finite_scores_over_the_box(name):
    toy = build_toy(name)
    x = torch.tensor(FAR[name], dtype=torch.float64)
    thetas = box(toy) if name != "two_moons" else [torch.tensor([1.0, 1.0])]
    x = x.clamp(min=-1.0) if name == "two_moons" else x
    for theta in thetas:
        assert toy.log_prob(x, theta).isfinite().all()
        assert toy.score(x, theta).isfinite().all()


@pytest.mark.parametrize(("name", "x"), [("mass_bump", [[99.9], [160.1], [1e9]]), ("two_moons", [[-5.0, 0.0], [0.25, 0.1]])])
def test_outside_the_support_the_density_is_zero_without_nan_gradients(name, x):
    toy = build_toy(name)
    x, theta = torch.tensor(x), toy.spec.parameters.nominal
    assert (toy.log_prob(x, theta) == -math.inf).all()
    assert not toy.score(x, theta).isnan().any()


def test_gaussian_shift_score_in_closed_form():
    toy = build_toy("gaussian_shift")
    theta = toy.spec.parameters.sample_prior(50, generator())
    x = toy.sample(theta, generator=generator(1)).x.double()
    sigma = torch.exp(0.1 * theta[:, 2])
    z = (x[:, 0] - theta[:, 0] - 0.05 * theta[:, 1]) / sigma
    expected = torch.stack([z / sigma, 0.05 * z / sigma, 0.1 * (z**2 - 1)], -1)
    assert torch.allclose(toy.score(x, theta), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_fraction_score_in_closed_form_up_to_the_edges(name, fraction):
    toy = build_toy(name)
    x = events_at(toy, toy.spec.parameters.nominal.tolist(), 50).x
    theta = torch.tensor([fraction, 0.5, -0.5], dtype=torch.float64)
    processes = toy.log_prob_process(x, theta).exp()
    slope = torch.tensor([1.0, -1.0] if name == "mass_bump" else [-1.0, 1.0], dtype=torch.float64)
    weights = toy.rates(theta.unsqueeze(0)) / 1_000
    expected = (processes @ slope) / (processes * weights).sum(-1)
    assert torch.allclose(toy.score(x, theta)[:, 0], expected, rtol=1e-10)


@pytest.mark.parametrize("name", MIXTURES)
def test_joint_truth_averages_over_the_latent_class_to_the_marginal_truth(name):
    """E[joint score | x] = score, and E_theta_0[joint ratio | x] = ratio (arXiv:1805.00020, eqs. 6 and 7)."""
    toy = build_toy(name)
    theta = toy.spec.parameters.sample_prior(30, generator())
    x = toy.sample(theta, generator=generator(1)).x
    nominal = toy.spec.parameters.nominal

    def posterior(at):
        joint = toy.log_prob_process(x, at).exp() * toy.rates(at.expand(30, -1))
        return joint / joint.sum(-1, keepdim=True)

    truths = [joint_truth(toy, x, torch.full((30,), k), theta) for k in (0, 1)]
    score = sum(posterior(theta)[:, k : k + 1] * truths[k][1] for k in (0, 1))
    ratio = sum(posterior(nominal)[:, k] * truths[k][0].exp() for k in (0, 1))
    assert torch.allclose(score, toy.score(x, theta), rtol=1e-9, atol=1e-9)
    assert torch.allclose(ratio.log(), toy.log_ratio(x, theta), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MIXTURES)
def test_events_carry_the_joint_truth_of_their_class(name):
    toy = build_toy(name)
    events = toy.sample(toy.spec.parameters.sample_prior(30, generator()), generator=generator(1))
    log_ratio, score = joint_truth(toy, events.x, events.label, events.theta)
    assert torch.equal(events.joint_log_ratio, log_ratio)
    assert torch.equal(events.joint_score, score)
    at_nominal = toy.sample(toy.spec.parameters.nominal.expand(5, -1), generator=generator())
    assert at_nominal.joint_log_ratio.tolist() == [0.0] * 5


def test_mixture_log_prob_where_components_vanish():
    fractions = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    components = torch.tensor([[0.0, -2_000.0], [-math.inf, -math.inf], [-3.0, -1e9]], dtype=torch.float64)
    value = mixture_log_prob(fractions, components)
    assert value.tolist() == [-2_000.0, -math.inf, -3.0]
    (slope,) = torch.autograd.grad(value[2], fractions)
    assert slope[2].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("below", "above"), [(-12.0, 17.0), (8.0, 10.0), (-10.0, -8.0), (-0.1, 0.1), (-40.0, 3.0)])
def test_log_normal_mass(below, above):
    mass, _ = quad(stats.norm.pdf, max(below, -12), min(above, 12), epsabs=0, epsrel=1e-12, limit=200)
    found = log_normal_mass(torch.tensor(below, dtype=torch.float64), torch.tensor(above, dtype=torch.float64))
    assert found.item() == pytest.approx(math.log(mass), abs=1e-10)
