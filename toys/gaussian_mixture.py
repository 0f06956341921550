"""A ring of correlated Gaussian modes in any number of dimensions, moved by interest and nuisances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, GaussianConstraint, Normal, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.gaussian_chain import chain_log_norm, chain_noise, chain_whiten, check_correlation, waves
from touchneedle.toys.mixture import check_positive, joint_truth, mixture_log_prob

__all__ = ["GaussianMixture", "GaussianMixtureConfig"]

SMALLEST_DIM, LARGEST_DIM = 2, 100


@dataclass
class GaussianMixtureConfig:
    """Options.

    Attributes:
        dim: number of features, 2 to 100.
        modes: number of modes K; mode k (from 1) holds a share of 2 k / (K (K + 1)).
        radius: radius of the ring on which the modes sit, in standard deviations of a feature.
        correlation: rho between neighbouring features; its sign alternates from mode to mode.
        a: shift of the modes per sigma of a nuisance.
        fit_events: expected events.
    """

    dim: int = 4
    modes: int = 4
    radius: float = 8.0
    correlation: float = 0.5
    a: float = 0.1
    fit_events: int = 1_000


class GaussianMixture(ExactToy):
    """p(x) = sum_k f_k N(x; m_k, S_k), m_k = radius r_k + (turn + a [k even] twist) t_k + a growth r_k.

    r_k = (cos, sin) and t_k = (-sin, cos) of 2 pi k / K are the radial and tangential unit vectors in
    the plane of two orthonormal waves that are spread over all features, (S_k)_ij = (+-rho)^|i - j|.
    ``turn`` is of interest; ``twist`` mimics it in every second mode. The distance between modes does
    not depend on ``dim``: the more features, the less each of them shows of it.

    Exposes bridges of spurious density between modes, modes that are dropped (the smallest holds
    10 % by default), and how a method scales with dimension.
    """

    Config = GaussianMixtureConfig

    def __init__(self, config: GaussianMixtureConfig) -> None:
        _check(config)
        self.config = config
        self.fit_events = config.fit_events
        self._waves = waves(config.dim, 2)
        shares = torch.arange(1, config.modes + 1, dtype=torch.float64)
        self._shares = shares / shares.sum()
        features = tuple(Feature(f"x_{i + 1}") for i in range(config.dim))
        processes = tuple(f"mode_{k + 1}" for k in range(config.modes))
        self.spec = ToySpec("gaussian_mixture", "1", _PARAMETERS, features, processes)

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` times the fixed shares of the modes, at theta (m, p): shape (m, K)."""
        return self.fit_events * self._shares.to(theta.device).expand(len(theta), -1)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        label = torch.searchsorted(self._shares.cumsum(0)[:-1], u)
        x = torch.empty(len(theta), self.config.dim, dtype=torch.float64)
        for k in range(self.config.modes):
            chosen = label == k
            noise = chain_noise(int(chosen.sum()), self.config.dim, self._correlation(k), generator)
            x[chosen] = self._centre(theta[chosen], k) @ self._waves + noise
        x = x.float()
        log_ratio, score = joint_truth(self, x, label, theta)
        return Events(x, theta, torch.ones_like(u), label, joint_log_ratio=log_ratio, joint_score=score)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return mixture_log_prob(self._shares.to(x.device).expand(len(x), -1), self._log_prob_process(x, theta))

    def _log_prob_process(self, x: Tensor, theta: Tensor) -> Tensor:
        kinds = [self._outside_and_plane(x, self._correlation(k)) for k in range(min(2, self.config.modes))]
        return torch.stack([self._log_prob_mode(*kinds[k % 2], theta, k) for k in range(self.config.modes)], -1)

    def _outside_and_plane(self, x: Tensor, correlation: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log density outside the modes' plane (n,), whitened coordinates in it (n, 2), and their basis (2, 2).

        theta acts in the plane alone, so that modes of equal correlation share all work in d dimensions.
        """
        white = chain_whiten(x, correlation)
        plane, basis = torch.linalg.qr(chain_whiten(self._waves.to(x.device), correlation).T)
        inside = white @ plane
        outside = white.square().sum(-1) - inside.square().sum(-1)
        return -0.5 * outside - chain_log_norm(self.config.dim, correlation), inside, basis

    def _log_prob_mode(self, outside: Tensor, inside: Tensor, basis: Tensor, theta: Tensor, k: int) -> Tensor:
        return outside - 0.5 * (inside - self._centre(theta, k) @ basis.T).square().sum(-1)

    def _centre(self, theta: Tensor, k: int) -> Tensor:
        """Centre of mode k in units of the two waves, shape (n, 2)."""
        turn, twist, growth = theta.unbind(-1)
        angle = 2 * math.pi * k / self.config.modes
        along = turn + self.config.a * twist if k % 2 == 0 else turn
        outwards = self.config.radius + self.config.a * growth
        first = outwards * math.cos(angle) - along * math.sin(angle)
        second = outwards * math.sin(angle) + along * math.cos(angle)
        return torch.stack([first, second], -1)

    def _correlation(self, k: int) -> float:
        return self.config.correlation * (-1) ** k


def _check(config: GaussianMixtureConfig) -> None:
    check_positive("gaussian_mixture", modes=config.modes, radius=config.radius, a=config.a, fit_events=config.fit_events)
    check_correlation("gaussian_mixture", config.correlation)
    if not SMALLEST_DIM <= config.dim <= LARGEST_DIM:
        raise InputError(f"toy gaussian_mixture: option dim: expected {SMALLEST_DIM} to {LARGEST_DIM} features; got {config.dim}")


_PARAMETERS = ParameterSpace(
    (
        Parameter("turn", "interest", 0.0, (-1.0, 1.0), Uniform(-1.0, 1.0), latex=r"\theta"),
        Parameter("twist", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_1"),
        Parameter("growth", "nuisance", 0.0, (-14.0, 14.0), Normal(0.0, 2.0), GaussianConstraint(1.0), latex=r"\nu_2"),
    )
)
