"""Small exact problems with closed-form fits, and estimators with planted errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform

INF = math.inf


@dataclass
class NoOptions:
    """No options."""


class LinearGaussian(ExactToy):
    """x ~ N(A theta, 1) in 2 dimensions; POI ``mu``, NP ``nu`` with t ~ N(nu, 1). ln L is exactly quadratic."""

    Config = NoOptions
    response = torch.tensor([[1.0, 0.5], [0.0, 0.2]], dtype=torch.float64)

    def __init__(self, bounds=(-INF, INF), nominal=0.0):
        mu = Parameter("mu", "interest", nominal, bounds, Normal(0.0, 1.0))
        nu = Parameter("nu", "nuisance", 0.0, (-INF, INF), Normal(0.0, 3.0), GaussianConstraint(1.0))
        self.spec = ToySpec("linear_gaussian", "1", ParameterSpace((mu, nu)), (Feature("a"), Feature("b")), ("all",))

    def rates(self, theta):
        return torch.full((len(theta), 1), 1000.0, dtype=torch.float64)

    def _sample(self, theta, generator):
        x = theta @ self.response.T + torch.randn(len(theta), 2, generator=generator, dtype=torch.float64)
        return Events(x=x, theta=theta, weight=torch.ones(len(theta), dtype=torch.float64))

    def _log_prob(self, x, theta):
        return -0.5 * (x - theta @ self.response.T).square().sum(-1) - math.log(2 * math.pi)

    def closed_form(self, mean, n, auxiliary):
        """Best fits (E, 2) and covariance (E, 2, 2) for means (E, 2) of n (E,) events and t (E,)."""
        constraint = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
        hessian = n[:, None, None] * (self.response.T @ self.response) + constraint
        right = n[:, None] * (mean.double() @ self.response)
        right[:, 1] += auxiliary
        return torch.linalg.solve(hessian, right), torch.linalg.inv(hessian)


class Mixture(ExactToy):
    """4 features: fraction f of N(+shift, e^scale) on N(-0.7, 1); 1 POI, 2 NPs. Not quadratic."""

    Config = NoOptions

    def __init__(self, rate_poi=False):
        f = Parameter("f", "interest", 0.5, (0.0, 1.0), Uniform(0.05, 0.95))
        shift = Parameter("shift", "nuisance", 0.0, (-5.0, 5.0), Normal(0.0, 1.0), GaussianConstraint(1.0))
        scale = Parameter("scale", "nuisance", 0.0, (-5.0, 5.0), Normal(0.0, 1.0), GaussianConstraint(1.0))
        features = tuple(Feature(f"x{i}") for i in range(4))
        self.spec = ToySpec("mixture", "1", ParameterSpace((f, shift, scale)), features, ("signal", "background"))

    def rates(self, theta):
        return 1000.0 * torch.stack([theta[:, 0], 1 - theta[:, 0]], -1)

    def _moments(self, theta):
        mean = 0.7 + 0.2 * theta[:, 1:2]
        width = (0.1 * theta[:, 2:3]).exp()
        return mean, width

    def _sample(self, theta, generator):
        mean, width = self._moments(theta)
        label = (torch.rand(len(theta), 1, generator=generator, dtype=torch.float64) > theta[:, :1]).long()
        noise = torch.randn(len(theta), 4, generator=generator, dtype=torch.float64)
        x = torch.where(label == 0, mean + width * noise, -0.7 + noise)
        return Events(x=x, theta=theta, weight=torch.ones(len(theta), dtype=torch.float64), label=label[:, 0])

    def _log_prob(self, x, theta):
        mean, width = self._moments(theta)
        signal = -0.5 * ((x - mean) / width).square().sum(-1) - 4 * width[:, 0].log()
        background = -0.5 * (x + 0.7).square().sum(-1)
        tiny = 1e-300
        both = torch.stack([signal + (theta[:, 0] + tiny).log(), background + (1 - theta[:, 0] + tiny).log()])
        return both.logsumexp(0) - 2 * math.log(2 * math.pi)


class SignalStrength(ExactToy):
    """Rate mu S + B with S = 300, B = 700; x ~ N(0, 1) for signal and N(1.5, 1) for background."""

    Config = NoOptions

    def __init__(self):
        mu = Parameter("mu", "interest", 1.0, (0.0, 5.0), Uniform(0.1, 3.0))
        self.spec = ToySpec("signal_strength", "1", ParameterSpace((mu,)), (Feature("x"),), ("signal", "background"))

    def rates(self, theta):
        return torch.stack([300 * theta[:, 0], 700 + 0 * theta[:, 0]], -1)

    def _sample(self, theta, generator):
        share = 300 * theta[:, 0] / (300 * theta[:, 0] + 700)
        noise = torch.randn(len(theta), 1, generator=generator, dtype=torch.float64)
        background = torch.rand(len(theta), generator=generator, dtype=torch.float64) > share
        return Events(noise + 1.5 * background[:, None], theta, torch.ones(len(theta), dtype=torch.float64), background.long())

    def _log_prob(self, x, theta):
        signal, background = -0.5 * x[:, 0] ** 2, -0.5 * (x[:, 0] - 1.5) ** 2
        mixture = 300 * theta[:, 0] * signal.exp() + 700 * background.exp()
        return mixture.log() - (300 * theta[:, 0] + 700).log() - 0.5 * math.log(2 * math.pi)


class Truth(Estimator):
    """The exact log ratio, with planted errors: evaluated at theta + shift, multiplied by a factor."""

    Config = NoOptions
    normalised = True

    def __init__(self, toy, shift=None, factor=1.0):
        super().__init__(toy.spec, NoOptions())
        self.toy, self.factor = toy, factor
        self.shift = torch.zeros(toy.spec.theta_dim, dtype=torch.float64) if shift is None else torch.tensor(shift, dtype=torch.float64)
        self.double()

    def _log_ratio(self, x, theta):
        at = theta + self.shift
        return self.factor * (self.toy.log_prob(x, at) - self.toy.log_prob(x, self.nominal + self.shift))


class Rugged(Truth):
    """The exact answer plus a fast ripple in theta, the same for every event."""

    def _log_ratio(self, x, theta):
        return super()._log_ratio(x, theta) + 0.02 * torch.sin(150 * theta[:, 0]) * (1 + 0.1 * x[:, 0])


class Drifting(Truth):
    """The exact answer times exp(drift): not normalised; says by how much."""

    normalised = False

    def _drift(self, theta):
        return 0.1 * theta[:, 0] + 0.05 * theta[:, 0] ** 2

    def _log_ratio(self, x, theta):
        return super()._log_ratio(x, theta) + self._drift(theta)

    def log_normalisation(self, theta):
        return self._drift(theta)


@pytest.fixture
def problems():
    """The toys and estimators of this file."""
    return SimpleNamespace(
        LinearGaussian=LinearGaussian,
        Mixture=Mixture,
        SignalStrength=SignalStrength,
        Truth=Truth,
        Rugged=Rugged,
        Drifting=Drifting,
    )


@pytest.fixture
def generator():
    """A seeded generator."""
    return torch.Generator().manual_seed(20_240_607)


@pytest.fixture
def draw(generator):
    """Pseudo-experiments of a toy: ``draw(toy, theta, n, E, n_pool)``."""
    from touchneedle.inference.pseudo_experiments import draw_pseudo_experiments

    def make(toy, theta, n_events, n_experiments, n_pool=20_000):
        theta = torch.tensor(theta, dtype=torch.float64)
        pool = toy.sample(theta.expand(n_pool, -1), generator=generator)
        return draw_pseudo_experiments(pool, theta, n_events, n_experiments, toy.spec.parameters, generator)

    return make
