"""Every exact density against a second, independent implementation in numpy and scipy, one event at a time."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.toys.base import build_toy


def gaussian_shift(x, theta):
    shift, offset, log_scale = theta
    return [stats.norm.logpdf(x[0], shift + 0.05 * offset, math.exp(0.1 * log_scale))]


def mass_bump(x, theta):
    _, mass_scale, resolution = theta
    mean, width = 125 * (1 + 0.01 * mass_scale), 2 * math.exp(0.2 * resolution)
    signal = stats.truncnorm.logpdf(x[0], (100 - mean) / width, (160 - mean) / width, mean, width)
    background = stats.truncexpon.logpdf(x[0], b=0.03 * 60, loc=100, scale=1 / 0.03)
    return [signal, background]


def two_moons(x, theta):
    """Polar coordinates: p(x) = p(r) p(angle) / r."""
    t1, t2 = theta
    z = complex(x[0] - 0.25 + abs(t1 + t2) / math.sqrt(2), x[1] - (t2 - t1) / math.sqrt(2))
    radius, angle = abs(z), np.angle(z)
    return [stats.norm.logpdf(radius, 0.1, 0.01) + stats.uniform.logpdf(angle, -math.pi / 2, math.pi) - math.log(radius)]


def fnf_two_class(x, theta):
    return [fnf_kinematics(x[:2], theta, k) + fnf_score(x, theta, k) for k in (0, 1)]


def fnf_kinematics(x, theta, k):
    """Covariances pushed through the squeeze matrix, as the generator transforms events."""
    _, shift, squeeze = theta
    sign = (-1, 1)[k]
    squeezing = np.diag([math.exp(-0.2 * sign * squeeze), math.exp(0.2 * sign * squeeze)])
    covariance = squeezing @ np.diag([(0.9, 0.6)[k] ** 2, (0.6, 0.4)[k] ** 2]) @ squeezing.T
    return stats.multivariate_normal.logpdf(x, [sign * (0.5 + 0.3 * shift), 0], covariance)


def fnf_score(x, theta, k):
    mean, covariance = fnf_score_moments(x[0], x[1], theta, k)
    return stats.multivariate_normal.logpdf(x[2:], mean, covariance)


def fnf_score_moments(x1, x2, theta, k):
    _, shift, squeeze = theta
    sign = (-1, 1)[k]
    move = 0.3 * sign * shift * math.tanh(x1)
    mean = np.array([math.sin(1.5 * x1) + 0.3 * x2 + move, 0.3 * x1**2 - 1.2 + 0.5 * math.sin(x2) - move])
    s0 = math.log(1 + math.exp(0.4 * x1 + 0.1)) * math.exp(0.2 * sign * squeeze)
    s1 = math.log(1 + math.exp(-0.2 * x1 + 0.4)) * math.exp(-0.2 * sign * squeeze)
    rho = 0.8 * math.tanh(0.5 * (x1 + x2))
    return mean, np.array([[s0**2, rho * s0 * s1], [rho * s0 * s1, s1**2]])


def fnf_distortion(x1, x2, k, delta):
    """Shear times rotation, as one matrix that acts on y."""
    sign = (-1, 1)[k]
    angle = sign * math.tanh(x1 / 0.5) * 2 * delta / (0.7 * math.hypot(x1, x2) + 0.5)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (np.eye(2) + 0.10 * sign * np.array([[1, -1], [-1, 1]])) @ rotation


def fractions(name, theta):
    if name == "mass_bump":
        return [theta[0], 1 - theta[0]]
    return [1 - theta[0], theta[0]] if name == "fnf_two_class" else [1.0]


PROCESS_DENSITIES = {f.__name__: f for f in (fnf_two_class, gaussian_shift, mass_bump, two_moons)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def events_from_prior(toy, n):
    return toy.sample(toy.spec.parameters.sample_prior(n, generator()), generator=generator(1))


@pytest.mark.parametrize("name", PROCESS_DENSITIES)
def test_log_prob_matches_second_implementation(name):
    toy = build_toy(name)
    events = events_from_prior(toy, 100)
    expected = [
        math.log(np.dot(fractions(name, theta), np.exp(PROCESS_DENSITIES[name](x, theta))))
        for x, theta in zip(events.x.double().numpy(), events.theta.numpy(), strict=True)
    ]
    np.testing.assert_allclose(toy.log_prob(events.x, events.theta).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["fnf_two_class", "gaussian_shift", "mass_bump"])
def test_process_densities_match_second_implementation(name):
    toy = build_toy(name)
    events = events_from_prior(toy, 50)
    expected = [PROCESS_DENSITIES[name](x, theta) for x, theta in zip(events.x.double().numpy(), events.theta.numpy(), strict=True)]
    np.testing.assert_allclose(toy.log_prob_process(events.x, events.theta).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [0, 1])
def test_distorted_score_is_the_pushed_forward_normal(k):
    """A linear map of a normal is a normal: no inverse and no explicit Jacobian on this side."""
    delta, toy = 0.2, build_toy("fnf_two_class", distortion=0.2)
    events = events_from_prior(toy, 50)
    found = toy.log_prob_process(events.x, events.theta)[:, k]
    for x, theta, value in zip(events.x.double().numpy(), events.theta.numpy(), found, strict=True):
        mean, covariance = fnf_score_moments(x[0], x[1], theta, k)
        matrix = fnf_distortion(x[0], x[1], k, delta)
        score = stats.multivariate_normal.logpdf(x[2:], matrix @ mean, matrix @ covariance @ matrix.T)
        assert value.item() == pytest.approx(fnf_kinematics(x[:2], theta, k) + score, abs=1e-9)


def test_no_distortion_is_the_default():
    plain, off = build_toy("fnf_two_class"), build_toy("fnf_two_class", distortion=0.0)
    events = events_from_prior(plain, 20)
    assert torch.equal(plain.log_prob(events.x, events.theta), off.log_prob(events.x, events.theta))
    on = build_toy("fnf_two_class", distortion=0.2).log_prob(events.x, events.theta)
    assert (on - plain.log_prob(events.x, events.theta)).abs().max() > 0.1
