"""Simple likelihood, complex posterior: four draws of a Gaussian with five parameters (sbibm)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ExactToy, Feature, Parameter, ParameterSpace, ToySpec, Uniform
from touchneedle.toys.mixture import check_positive

__all__ = ["Slcp", "SlcpConfig"]

DRAWS = 4
JITTER = 1e-6


@dataclass
class SlcpConfig:
    """Options.

    Attributes:
        distractors: features of pure noise behind the informative ones (92 in sbibm's variant).
        fit_events: expected events.
    """

    distractors: int = 0
    fit_events: int = 1_000


class Slcp(ExactToy):
    """x = 4 independent draws of N2((t1, t2), S), sd (t3^2, t4^2), correlation tanh t5, 1e-6 added to both variances.

    An event has 8 features, and ``distractors`` more that follow Student's t with 2 degrees of
    freedom, p(x) = (2 + x^2)^(-3/2), whatever theta (Papamakarios et al. 2019, arXiv:1805.07226, A.1,
    whose true point is nominal here; Lueckmann et al. 2021, arXiv:2101.04653, T.3 and T.4, where the
    distractors follow a fixed mixture of such tails).

    Exposes near-singular covariances as t3 or t4 go to 0, posteriors that miss modes, and capacity
    wasted on noise. Not regular: the signs of t3 and t4 make four equal maxima.
    """

    Config = SlcpConfig
    regular = False

    def __init__(self, config: SlcpConfig) -> None:
        check_positive("slcp", fit_events=config.fit_events)
        if config.distractors < 0:
            raise InputError(f"toy slcp: option distractors: expected 0 or more features; got {config.distractors}")
        self.config = config
        self.fit_events = config.fit_events
        informative = [Feature(f"x{draw}_{axis}") for draw in range(1, DRAWS + 1) for axis in (1, 2)]
        noise = [Feature(f"noise_{i + 1}") for i in range(config.distractors)]
        self.spec = ToySpec("slcp", "1", _PARAMETERS, (*informative, *noise), ("all",))

    def rates(self, theta: Tensor) -> Tensor:
        """``fit_events`` at every theta (m, p): shape (m, 1)."""
        return torch.full((len(theta), 1), float(self.fit_events), dtype=torch.float64, device=theta.device)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        noise = torch.randn(len(theta), DRAWS, 2, generator=generator, dtype=torch.float64)
        var_1, slope, var_2 = _factors(theta)
        first = var_1.sqrt() * noise[..., 0]
        second = slope * first + var_2.sqrt() * noise[..., 1]
        draws = torch.stack([first, second], -1) + theta[:, None, :2]
        x = torch.cat([draws.flatten(1), self._sample_noise(len(theta), generator)], -1)
        return Events(x.float(), theta, torch.ones_like(x[:, 0]))

    def _sample_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Student's t with 2 degrees of freedom: a normal over the root of half a chi-squared, an exponential."""
        normal = torch.randn(n, self.config.distractors, generator=generator, dtype=torch.float64)
        return normal / torch.empty_like(normal).exponential_(generator=generator).sqrt()

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        draws, noise = x[:, : 2 * DRAWS].reshape(-1, DRAWS, 2), x[:, 2 * DRAWS :]
        first, second = (draws - theta[:, None, :2]).unbind(-1)
        var_1, slope, var_2 = _factors(theta)
        chi2 = first**2 / var_1 + (second - slope * first) ** 2 / var_2
        informative = -0.5 * (chi2 + var_1.log() + var_2.log()) - math.log(2 * math.pi)
        return informative.sum(-1) - 1.5 * (2 + noise**2).log().sum(-1)


def _factors(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p(x_1) p(x_2|x_1): variance of x_1, slope of x_2 in x_1, variance of x_2 given x_1, each (n, 1).

    With 1 - tanh^2 = sech^2 no term of the determinant is negative, and nothing cancels.
    """
    square_1, square_2 = theta[:, 2:3] ** 4, theta[:, 3:4] ** 4
    covariance = torch.tanh(theta[:, 4:5]) * theta[:, 2:3] ** 2 * theta[:, 3:4] ** 2
    determinant = square_1 * square_2 / torch.cosh(theta[:, 4:5]) ** 2 + JITTER * (square_1 + square_2) + JITTER**2
    var_1 = square_1 + JITTER
    return var_1, covariance / var_1, determinant / var_1


_NOMINAL = (0.7, -2.9, -1.0, -0.9, 0.6)
_PARAMETERS = ParameterSpace(
    tuple(
        Parameter(f"theta_{i}", "interest", value, (-3.0, 3.0), Uniform(-3.0, 3.0), latex=rf"\theta_{i}")
        for i, value in enumerate(_NOMINAL, start=1)
    )
)
