"""Flow matching along straight paths: y(t) = (1 - (1 - sigma_min) t) e + t u, from noise e ~ N(0, 1) at t = 0 to data u at t = 1.

Lipman, Chen, Ben-Hamu, Nickel, Le 2023, arXiv:2210.02747, eqs. 20 to 23 (optimal-transport paths). The velocity of the flow is
v(y, t) = E[u - (1 - sigma_min) e | y]. For standard normal data it is proportional to y; the network learns the residual to that.
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
    """v(y, t, context) = c(t) y + network(y, (t, cos pi t, sin pi t), context), c from standard normal data.

    Methods take the code of a context (``encode``), at times (n,) or one for all.
    """

    def __init__(self, features: int, context: int, config: StraightPathConfig) -> None:
        super().__init__()
        self.config = config
        self.network = FieldNetwork(features, _TIME_FEATURES, context, config.hidden)

    def encode(self, context: Tensor) -> Tensor:
        """Code of each context (n, c), the same at every time."""
        return self.network.encode(context)

    def forward(self, y: Tensor, time: Tensor | float, code: Tensor) -> Tensor:
        """v, shape (n, features)."""
        clock, slope = self._time(y, time)
        return slope * y + self.network(y, clock, code)

    def with_divergence(self, y: Tensor, time: Tensor | float, code: Tensor) -> tuple[Tensor, Tensor]:
        """v (n, features), and its divergence in y (n,)."""
        clock, slope = self._time(y, time)
        value, divergence = self.network.with_divergence(y, clock, code)
        return slope * y + value, slope[:, 0] * y.shape[1] + divergence

    def loss(self, value: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of v on noisy copies of each value (n, features), shape (n,): conditional flow matching."""
        copies = self.config.noises
        value, code = value.repeat(copies, 1), self.encode(context).repeat(copies, 1)
        time = draw_stratified(len(value), generator).to(value)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64, device=generator.device).to(value)
        left = 1 - self.config.sigma_min
        y = (1 - left * time[:, None]) * noise + time[:, None] * value
        error = self(y, time, code) - (value - left * noise)
        return error.square().mean(-1).reshape(copies, -1).mean(0)

    def _time(self, y: Tensor, time: Tensor | float) -> tuple[Tensor, Tensor]:
        """What the network sees of the time, and c(t): shapes (n or 1, 3) and (n or 1, 1)."""
        time = torch.as_tensor(time, dtype=y.dtype, device=y.device).reshape(-1, 1)
        left = 1 - self.config.sigma_min
        noise = 1 - left * time
        slope = (time - left * noise) / (time**2 + noise**2)
        return torch.cat([time, (math.pi * time).cos(), (math.pi * time).sin()], -1), slope


def straight_nodes(steps: int) -> list[float]:
    """Times of equal steps from data (1) to noise (0)."""
    return [1 - k / steps for k in range(steps + 1)]
