"""A Gaussian with up to 100 nuisances, whose coupling to each other is a dial."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.gaussian_chain import chain_log_prob, waves
from touchneedle.toys.mixture import check_positive

__all__ = ["ManyNuisances", "ManyNuisancesConfig"]

MOST = 100


@dataclass
class ManyNuisancesConfig:
    """Options.

    Attributes:
        nuisances: number of nuisance parameters K, 1 to 100; events have K + 1 features.
        epsilon: coupling of neighbouring nuisances, in units of the parameter of interest; 0 decouples them.
        a: shift of the events per sigma of a nuisance.
        fit_events: expected events.
    """

    nuisances: int = 3
    epsilon: float = 0.03
    a: float = 0.1
    fit_events: int = 1_000


class ManyNuisances(ExactToy):
    """x ~ N((signal + epsilon q) u + a sum_k nu_k w_k, 1), q = nu_1 nu_2 + nu_2 nu_3 + ... + nu_(K-1) nu_K.

    The w_k are orthonormal, one feature for each of them, and u = (w_0 + sum_k w_k / sqrt K) / sqrt 2:
    the signal moves events partly as the nuisances do. Templates of single nuisances do not depend on
    epsilon. Factorised morphing, log p(x|nu) = log p(x|0) + sum_k [log p(x|nu_k) - log p(x|0)], is exact
    at epsilon = 0, and at joint points it misses

        D = epsilon q u . (x - E[x|epsilon = 0]) - (epsilon q)^2 / 2,   D ~ N((epsilon q)^2 / 2, (epsilon q)^2) over p(x|theta),

    which it reads as a signal of epsilon q: it fails in proportion to epsilon.

    Exposes methods that learn nuisances one at a time (factorizable flows without cross terms,
    arXiv:2602.13184; ATLAS, arXiv:2412.01600), and cost in the number of nuisances.
    """

    Config = ManyNuisancesConfig

    def __init__(self, config: ManyNuisancesConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        self._response = _response(config)
        features = tuple(Feature(f"x_{i + 1}") for i in range(config.nuisances + 1))
        self.spec = ToySpec("many_nuisances", "1", _parameters(config.nuisances), features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        mean = self._mean(theta)
        x = mean + torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        return Events(x.float(), theta, torch.ones_like(x[:, 0]))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return chain_log_prob(x - self._mean(theta), 0.0)

    def _mean(self, theta: Tensor) -> Tensor:
        signal, nuisances = theta[:, :1], theta[:, 1:]
        coupling = (nuisances[:, 1:] * nuisances[:, :-1]).sum(-1, keepdim=True)
        return torch.cat([signal + self.config.epsilon * coupling, nuisances], -1) @ self._response.to(theta.device)


def _response(config: ManyNuisancesConfig) -> Tensor:
    """Shift of the events per unit of the signal (first row) and of each nuisance, shape (1 + K, d)."""
    own, *others = waves(config.nuisances + 1, config.nuisances + 1)
    directions = torch.stack(others)
    signal = (own + directions.sum(0) / config.nuisances**0.5) / 2**0.5
    return torch.cat([signal.unsqueeze(0), config.a * directions])


def _check(config: ManyNuisancesConfig) -> None:
    check_positive("many_nuisances", a=config.a, fit_events=config.fit_events)
    if not 1 <= config.nuisances <= MOST:
        raise InputError(f"toy many_nuisances: option nuisances: expected 1 to {MOST}; got {config.nuisances}")
    if not 0 <= config.epsilon < float("inf"):
        raise InputError(f"toy many_nuisances: option epsilon: expected zero or a positive number; got {config.epsilon:g}")


def _parameters(nuisances: int) -> ParameterSpace:
    signal = Parameter("signal", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta")
    others = [
        Parameter(f"nu_{k}", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=rf"\nu_{{{k}}}")
        for k in range(1, nuisances + 1)
    ]
    return ParameterSpace((signal, *others))
