"""Exact ratios with one defect each, and a toy without density whose features are periodic, discrete and sometimes missing."""

import math

import torch

from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.control import TruthControl
from touchneedle.estimators.oracle import Oracle, OracleConfig
from touchneedle.toys.base import (
    Events,
    Feature,
    FiniteToy,
    GaussianConstraint,
    Normal,
    Parameter,
    ParameterSpace,
    SimulatedToy,
    ToySpec,
    Uniform,
)


class Planted(TruthControl):
    """The exact log_ratio; the defects subclass it."""

    Config = OracleConfig

    def _log_ratio(self, x, theta):
        return self.exact_log_ratio(x, theta, self.nominal)

    def only(self, theta, *columns):
        """theta with all but these columns at nominal."""
        moved = self.nominal.expand_as(theta).clone()
        moved[:, list(columns)] = theta[:, list(columns)]
        return moved


class Drifts(Planted):
    """Two per cent of normalisation per unit of the second parameter."""

    def _log_ratio(self, x, theta):
        return super()._log_ratio(x, theta) + 0.02 * (theta - self.nominal)[:, 1]


class DriftsButKnowsIt(Drifts):
    """The same, divided out by local normalisation."""

    def log_normalisation(self, theta):
        return 0.02 * (theta - self.nominal)[:, 1]


class Curved(Planted):
    """Normalised to first order at nominal only."""

    def _log_ratio(self, x, theta):
        return super()._log_ratio(x, theta) + 0.02 * (theta - self.nominal)[:, 1] ** 2


class Flipped(Planted):
    """The sign of the second parameter is wrong."""

    def _log_ratio(self, x, theta):
        sign = torch.ones(theta.shape[1], dtype=theta.dtype)
        sign[1] = -1
        return super()._log_ratio(x, self.nominal + sign * (theta - self.nominal))


class Ignores(Planted):
    """The second parameter is ignored."""

    def _log_ratio(self, x, theta):
        others = [column for column in range(theta.shape[1]) if column != 1]
        return super()._log_ratio(x, self.only(theta, *others))


class Factorised(Planted):
    """Every parameter moves the density as if it were alone."""

    def _log_ratio(self, x, theta):
        return sum(Planted._log_ratio(self, x, self.only(theta, column)) for column in range(theta.shape[1]))


class Inverted(Planted):
    """theta and theta_0 confused."""

    def _log_ratio(self, x, theta):
        return -super()._log_ratio(x, theta)


class Constant(Planted):
    """Knows nothing of theta."""

    def _log_ratio(self, x, theta):
        return 0 * theta.sum(-1)


class Breaks(Planted):
    """NaN where the first feature is large."""

    def _log_ratio(self, x, theta):
        return torch.where(x[:, 0] > x[:, 0].quantile(0.9), torch.nan, super()._log_ratio(x, theta))


class Scaled(Oracle):
    """A density 10 % too large everywhere."""

    def _log_prob(self, x, theta):
        return super()._log_prob(x, theta) + math.log(1.1)


class Swirls(Oracle):
    """A score that is no gradient: the exact one, and a rotation in the plane of the first two parameters."""

    swirl = 0.5

    def score(self, x, theta):
        theta = theta.expand(len(x), -1)
        turn = torch.zeros_like(theta)
        turn[:, 0], turn[:, 1] = -self.swirl * theta[:, 1], self.swirl * theta[:, 0]
        return self.toy.score(x, theta) + turn


class Rotated(Swirls):
    """The exact score by a method of its own."""

    swirl = 0.0


def planted(defect, toy):
    return defect(toy.spec, OracleConfig(), toy).double()


class OddFeatures(SimulatedToy):
    """phi ~ (1 + t cos phi) / 2 pi, count ~ Poisson(3 e^(0.2 t)), extra ~ Exp(1) but missing (-1) with chance 0.3 + 0.1 nu."""

    fit_events = 500

    def __init__(self):
        space = ParameterSpace(
            (
                Parameter("t", "interest", 0.0, (-0.9, 0.9), Uniform(-0.9, 0.9)),
                Parameter("nu", "nuisance", 0.0, (-2.5, 2.5), Normal(0.0, 0.7), GaussianConstraint(1.0)),
            )
        )
        features = (
            Feature("phi", kind="periodic", support=(0.0, 2 * math.pi)),
            Feature("count", kind="discrete"),
            Feature("extra", missing=-1.0),
        )
        self.spec = ToySpec("odd_features", "1", space, features, ("all",))

    def rates(self, theta):
        return torch.full((len(theta), 1), 500.0, dtype=torch.float64)

    def _sample(self, theta, generator):
        t, nu, n = theta[:, 0], theta[:, 1], len(theta)
        phi = 2 * math.pi * torch.rand(2, n, generator=generator, dtype=torch.float64)
        u, v, w = torch.rand(3, n, generator=generator, dtype=torch.float64)
        # (1 + t cos phi) / 2 is the chance to keep phi, else it is turned by pi.
        angle = torch.where(u < 0.5 * (1 + t * phi[0].cos()), phi[0], (phi[0] + math.pi) % (2 * math.pi))
        count = torch.poisson(3 * torch.exp(0.2 * t), generator=generator)
        extra = torch.where(v < 0.3 + 0.1 * nu, -1.0, -torch.log1p(-w))
        return Events(torch.stack([angle, count, extra], -1).float(), theta, torch.ones(n, dtype=torch.float64))


class OddRatio(Estimator):
    """The exact ratio of `OddFeatures`."""

    Config = OracleConfig

    def _log_ratio(self, x, theta):
        t, nu = theta.unbind(-1)
        absent = 0.3 + 0.1 * nu
        shape = torch.log1p(t * x[:, 0].cos()) + 0.2 * t * x[:, 1] - 3 * torch.expm1(0.2 * t)
        return shape + torch.where(x[:, 2] == -1, (absent / 0.3).log(), ((1 - absent) / 0.7).log())


class OddRatioFlipped(OddRatio):
    """The sign of t is wrong."""

    def _log_ratio(self, x, theta):
        return super()._log_ratio(x, theta * torch.tensor([-1.0, 1.0], dtype=theta.dtype))


def odd(defect, toy):
    return defect(toy.spec, OracleConfig()).double()


def oracle(toy):
    return build_estimator("oracle", toy.spec, truth=toy).double()


class Finite(FiniteToy):
    """10,000 weighted events of signal N(0, 1) and background N(1, 1); mu multiplies the signal."""

    def __init__(self):
        mu = Parameter("mu", "interest", 1.0, (0.0, 5.0), Uniform(0.3, 3.0))
        self.spec = ToySpec("finite", "1", ParameterSpace((mu,)), (Feature("x"),), ("signal", "background"))
        generator = torch.Generator().manual_seed(6)
        label = (torch.arange(10_000) % 2).long()
        x = torch.randn(10_000, 1, generator=generator) + 1.0 * label[:, None]
        weight = (0.5 + torch.rand(10_000, generator=generator, dtype=torch.float64)) * 0.1
        self.events = Events(x, torch.ones(10_000, 1, dtype=torch.float64), weight, label)

    def rates(self, theta):
        return torch.stack([500 * theta[:, 0], 500 + 0 * theta[:, 0]], -1)

    def pool(self, split):
        return self.events

    def reweight(self, events, theta):
        return events.weight * torch.where(events.label == 0, theta[..., 0], 1.0)


class FiniteRatio(OddRatio):
    """Its exact ratio."""

    def _log_ratio(self, x, theta):
        signal = torch.sigmoid(0.5 - x[:, 0])
        return (signal * theta[:, 0] + 1 - signal).log() - (0.5 * theta[:, 0] + 0.5).log()


class FiniteInverted(FiniteRatio):
    """Signal and background confused in mu."""

    def _log_ratio(self, x, theta):
        return -super()._log_ratio(x, theta)
