"""Diffusion in one angle: y = cos(a) u + sin(a) e, from data (a near 0) to noise e ~ N(0, 1) at a = pi / 2.

The ratio of noise to signal is sigma = tan(a). A variance-exploding process is y / cos(a) with sigma its time, a
variance-preserving one is y itself (Song et al. 2021, arXiv:2011.13456; Karras et al. 2022, arXiv:2206.00364, eq. 4): they
differ in how often each sigma is seen in training, no more. The network learns

    F(y, a) = E[-sin(a) u + cos(a) e | y],   dy/da = F the probability flow,   score(y) = -y - cot(a) F

(Salimans, Ho 2022, arXiv:2202.00512; Lu, Song 2024, arXiv:2410.11081). F is 0 where u is standard normal, at every a: what
is learned is the residual to the closed form of that case, and -cot(a) F is the score of p_a(y) / N(y; 0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.field_network import FieldNetwork, PotentialNetwork, TwoWidths

# Growth of the noise in a variance-preserving process: beta(t) from 0.1 to 20 (Song et al. 2021, appendix C).
_BETA = (0.1, 20.0)
TIME_FEATURES = 3


@dataclass
class DiffusionConfig:
    """Options of a diffusion.

    Attributes:
        sde: ``ve`` trains on sigma uniform in its logarithm, ``vp`` on the times of a variance-preserving process.
        sigma_min, sigma_max: smallest and largest noise, in units of the data's width; what is narrower than
            ``sigma_min`` is smeared out.
        noises: noisy copies of each event in one step of training.
        hidden: widths of the two hidden layers (SiLU).
    """

    sde: Literal["ve", "vp"] = "ve"
    sigma_min: PositiveFloat = 0.01
    sigma_max: PositiveFloat = 20.0
    noises: PositiveInt = 8
    hidden: TwoWidths = (64, 64)


def draw_stratified(n: int, generator: torch.Generator) -> Tensor:
    """Times (n,) uniform in [0, 1], float64: one in each n-th part, in random order."""
    share = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
    return (torch.randperm(n, generator=generator, device=generator.device) + share) / n


def draw_angles(n: int, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """Angles (n,) as the process has them."""
    time = draw_stratified(n, generator)
    if config.sde == "ve":
        return (config.sigma_min * (config.sigma_max / config.sigma_min) ** time).atan()
    low, high = (_vp_time(sigma) for sigma in (config.sigma_min, config.sigma_max))
    time = low + (high - low) * time
    return torch.expm1(_BETA[0] * time + 0.5 * (_BETA[1] - _BETA[0]) * time**2).sqrt().atan()


def _vp_time(sigma: float) -> float:
    """The time t with sigma^2 = exp(integral of beta from 0 to t) - 1."""
    slope, target = _BETA[1] - _BETA[0], math.log1p(sigma**2)
    return (math.sqrt(_BETA[0] ** 2 + 2 * slope * target) - _BETA[0]) / slope


def angle_nodes(sigma_min: float, steps: int) -> list[float]:
    """Angles from the smallest one to pi / 2, denser where the noise is small: squares of equal steps."""
    low = math.atan(sigma_min)
    return [low + (0.5 * math.pi - low) * (k / steps) ** 2 for k in range(steps + 1)]


class DiffusionField(nn.Module):
    """F(y, a, context) = h(a) network(y, (sin a, cos a, h), context), h = sin a / sqrt(sin^2 a + w^2 cos^2 a).

    h is of order a / w for angles below the width w of the data: the score -cot(a) F stays finite as a -> 0. w is learned.
    Methods take the code of a context (``encode``), at angles (n,) or one for all.
    """

    def __init__(self, network: FieldNetwork | PotentialNetwork, config: DiffusionConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.log_width = nn.Parameter(torch.zeros(()))

    def encode(self, context: Tensor) -> Tensor:
        """Code of each context (n, c), the same at every angle."""
        return self.network.encode(context)

    def forward(self, y: Tensor, angle: Tensor | float, code: Tensor) -> Tensor:
        """F, shape (n, features)."""
        time, scale = self._time(y, angle)
        return scale * self.network(y, time, code)

    def with_divergence(self, y: Tensor, angle: Tensor | float, code: Tensor) -> tuple[Tensor, Tensor]:
        """F (n, features), and its divergence in y (n,)."""
        time, scale = self._time(y, angle)
        value, divergence = self.network.with_divergence(y, time, code)
        return scale * value, scale[:, 0] * divergence

    def score_over_normal(self, y: Tensor, angle: float, code: Tensor) -> Tensor:
        """grad_y log p_a(y|context) / N(y; 0, 1) = -cot(a) F, shape (n, features)."""
        return -self(y, angle, code) / math.tan(angle)

    def log_density_over_normal(self, y: Tensor, angle: float, code: Tensor) -> Tensor:
        """Undifferentiated, up to a function of the context, shape (n,); `InputError` unless the network is a potential."""
        if not isinstance(self.network, PotentialNetwork):
            raise InputError("network: expected potential for a density without a path; got score")
        time, scale = self._time(y, angle)
        return scale[:, 0] / math.tan(angle) * self.network.potential(y, time, code)

    def loss(self, value: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of F on noisy copies of each value (n, features), shape (n,): denoising score matching."""
        copies = self.config.noises
        value, code = value.repeat(copies, 1), self.encode(context).repeat(copies, 1)
        angle = draw_angles(len(value), self.config, generator).to(value)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64, device=generator.device).to(value)
        sin, cos = angle.sin()[:, None], angle.cos()[:, None]
        error = self(cos * value + sin * noise, angle, code) - (cos * noise - sin * value)
        return error.square().mean(-1).reshape(copies, -1).mean(0)

    def _time(self, y: Tensor, angle: Tensor | float) -> tuple[Tensor, Tensor]:
        """(sin a, cos a, h) and h, shapes (n or 1, TIME_FEATURES) and (n or 1, 1)."""
        angle = torch.as_tensor(angle, dtype=y.dtype, device=y.device).reshape(-1, 1)
        sin, cos = angle.sin(), angle.cos()
        scale = sin / (sin**2 + (self.log_width.exp() * cos) ** 2).sqrt()
        return torch.cat([sin, cos, scale], -1), scale
