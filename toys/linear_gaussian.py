"""A linear model with Gaussian noise: everything about the fit is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.gaussian_chain import chain_log_prob, chain_noise, check_correlation, waves
from touchneedle.toys.mixture import check_positive

__all__ = ["LinearGaussian", "LinearGaussianConfig"]

OWN = 0.2


@dataclass
class LinearGaussianConfig:
    """Options.

    Attributes:
        dim: number of features.
        interest: number of parameters of interest.
        nuisances: number of nuisance parameters, at most ``dim - interest``.
        correlation: rho between neighbouring features.
        response: shift of the events per sigma of a nuisance.
        fit_events: expected events.
    """

    dim: int = 4
    interest: int = 2
    nuisances: int = 2
    correlation: float = 0.5
    response: float = 0.1
    fit_events: int = 1_000


class LinearGaussian(ExactToy):
    """x = A theta + B nu + e, e ~ N(0, Sigma), Sigma_ij = rho^|i - j|: linear in interest and nuisances.

    The columns of A are orthonormal waves w_1 to w_p; nuisance k moves events along
    ``response`` (w_k + w_(p+k) / 5), nearly as parameter of interest k does (counted modulo p). With
    auxiliary measurements t of the nuisances and the mean m of n events, the profile likelihood is

        -2 ln L(theta) = (m - A theta - B t)^T (Sigma / n + B B^T)^(-1) (m - A theta - B t) + const.

    Exposes confusion of profiling and marginalising: nu is common to all events, so that the
    marginal N(A theta, Sigma + B B^T) of one event (Lueckmann et al. 2021, arXiv:2101.04653, T.1, has
    such a linear model without nuisances) multiplied over events is not the likelihood of the set.
    Exposes lost correlations too, between features and between parameters.
    """

    Config = LinearGaussianConfig

    def __init__(self, config: LinearGaussianConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        self.response = _response(config)
        features = tuple(Feature(f"x_{i + 1}") for i in range(config.dim))
        self.spec = ToySpec("linear_gaussian", "1", _parameters(config), features, ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        x = self._mean(theta) + chain_noise(len(theta), self.config.dim, self.config.correlation, generator)
        return Events(x.float(), theta, torch.ones_like(x[:, 0]))

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return chain_log_prob(x - self._mean(theta), self.config.correlation)

    def _mean(self, theta: Tensor) -> Tensor:
        return theta.contiguous() @ self.response.to(theta.device)


def _response(config: LinearGaussianConfig) -> Tensor:
    """The rows of (A, B)^T: shift of the events per unit of each parameter, shape (p + q, d)."""
    p, q = config.interest, config.nuisances
    directions = waves(config.dim, p + q)
    shared = directions[torch.arange(q) % p]
    return torch.cat([directions[:p], config.response * (shared + OWN * directions[p:])])


def _check(config: LinearGaussianConfig) -> None:
    check_positive(
        "linear_gaussian", dim=config.dim, interest=config.interest, response=config.response, fit_events=config.fit_events
    )  # fmt: skip
    check_correlation("linear_gaussian", config.correlation)
    if not 0 <= config.nuisances <= config.dim - config.interest:
        raise InputError(
            f"toy linear_gaussian: option nuisances: expected 0 to dim - interest = {config.dim - config.interest}; got {config.nuisances}"
        )


def _parameters(config: LinearGaussianConfig) -> ParameterSpace:
    interest = [
        Parameter(f"theta_{i + 1}", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=rf"\theta_{{{i + 1}}}")
        for i in range(config.interest)
    ]
    nuisances = [
        Parameter(f"nu_{i + 1}", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=rf"\nu_{{{i + 1}}}")
        for i in range(config.nuisances)
    ]
    return ParameterSpace((*interest, *nuisances))
