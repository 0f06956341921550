"""Flow matching along straight paths: y(t) = (1 - (1 - sigma_min) t) e + t u, from noise e ~ N(0, 1) at t = 0 to data u at t = 1.

Lipman, Chen, Ben-Hamu, Nickel, Le 2023, arXiv:2210.02747, eqs. 20 to 23 (optimal-transport paths). The velocity of the flow is
v(y, t) = E[u - (1 - sigma_min) e | y]; for standard normal data it is (r'(t) / r(t)) y, with r(t) the width of y(t). The network
learns the residual N to that, and z = y / r moves by dz/dt = N / r alone: little is left to integrate where data are nearly normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from touchneedle.estimators.diffusion import draw_stratified
from touchneedle.estimators.field_network import FieldNetwork, TwoWidths

_TIME_FEATURES = 3


@dataclass
class StraightPathConfig:
    """Options of flow matching.

    Attributes:
        sigma_min: width of a point of data at the end of its path, in units of the data's width.
        noises: noisy copies of each event in one step of training.
        hidden: widths of the two hidden layers (SiLU).
    """

    sigma_min: NonNegativeFloat = 1e-3
    noises: PositiveInt = 8
    hidden: TwoWidths = (64, 64)


class StraightField(nn.Module):
    """dz/dt = network(z, (t, cos pi t, sin pi t), context) / r(t), for z = y / r of unit width if data are standard normal.

    Methods take the code of a context (``encode``), at times (n,) or one for all.
    """

    def __init__(self, features: int, context: int, config: StraightPathConfig) -> None:
        super().__init__()
        self.config = config
        self.network = FieldNetwork(features, _TIME_FEATURES, context, config.hidden)

    def encode(self, context: Tensor) -> Tensor:
        """Code of each context (n, c), the same at every time."""
        return self.network.encode(context)

    def forward(self, z: Tensor, time: Tensor | float, code: Tensor) -> Tensor:
        """dz/dt, shape (n, features)."""
        time = _column(time, z)
        return self.network(z, _clock(time), code) / self._width(time)

    def with_divergence(self, z: Tensor, time: Tensor | float, code: Tensor) -> tuple[Tensor, Tensor]:
        """dz/dt (n, features), and its divergence in z (n,)."""
        time = _column(time, z)
        width = self._width(time)
        value, divergence = self.network.with_divergence(z, _clock(time), code)
        return value / width, divergence / width[:, 0]

    def loss(self, value: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of v on noisy copies of each value (n, features), shape (n,): conditional flow matching."""
        copies, left = self.config.noises, 1 - self.config.sigma_min
        value, code = value.repeat(copies, 1), self.encode(context).repeat(copies, 1)
        time = _column(draw_stratified(len(value), generator), value)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64, device=generator.device).to(value)
        y, width = (1 - left * time) * noise + time * value, self._width(time)
        of_normal = (time - left * (1 - left * time)) / width**2 * y
        error = self.network(y / width, _clock(time), code) - (value - left * noise - of_normal)
        return error.square().mean(-1).reshape(copies, -1).mean(0)

    def _width(self, time: Tensor) -> Tensor:
        """r(t)."""
        return (time**2 + (1 - (1 - self.config.sigma_min) * time) ** 2).sqrt()


def _column(time: Tensor | float, like: Tensor) -> Tensor:
    """Times (n or 1, 1)."""
    return torch.as_tensor(time, dtype=like.dtype, device=like.device).reshape(-1, 1)


def _clock(time: Tensor) -> Tensor:
    """What the network sees of the time."""
    return torch.cat([time, (math.pi * time).cos(), (math.pi * time).sin()], -1)


def straight_nodes(steps: int) -> list[float]:
    """Times of equal steps from data (1) to noise (0)."""
    return [1 - k / steps for k in range(steps + 1)]
