"""A continuous flow: z moves along a vector field, and its density changes by the divergence of the field.

dz/dt = f(t, z, c) from the data at t = 0 to noise at t = 1, log |d noise / d z| = integral of div f dt
(Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366; Grathwohl et al. 2018, arXiv:1810.01367). The field
is zuko's; the integration is not: steps that adapt to a batch give an event another number in another batch.
Here they are equal steps of the classical Runge-Kutta method, and the divergence is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zuko.flows.continuous import FFJTransform

from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.flow_ode import integrate


class ContinuousFlow(ConditionalFlow):
    """Integrated in equal steps, each of four evaluations of the field.

    Attributes:
        steps: number of steps, a scalar that is part of the saved weights.
    """

    field: Any
    steps: Tensor

    def __init__(self, features: int, context: int, hidden_features: Sequence[int], steps: int) -> None:
        super().__init__(features)
        self.field = FFJTransform(features, context, hidden_features=hidden_features, activation=nn.SiLU)
        self.register_buffer("steps", torch.tensor(steps))

    def to_noise(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of z (n, d), and log |d noise / d z| (n,)."""
        start = torch.cat([z, torch.zeros_like(z[:, :1])], -1)
        end = integrate(lambda state, time: self._with_divergence(time, state[:, :-1], context), start, self._times())
        return end[:, :-1], end[:, -1]

    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        return integrate(lambda state, time: self.field.f(torch.tensor(time).to(state), state, context), noise, self._times()[::-1])

    def _times(self) -> list[float]:
        """Ends of the steps, from data to noise."""
        return torch.linspace(0, 1, int(self.steps) + 1, dtype=torch.float64).tolist()

    def _with_divergence(self, time: Tensor | float, z: Tensor, context: Tensor) -> Tensor:
        """The field (n, d) and its divergence (n, d + 1): the network of zuko, with its derivatives along each column."""
        first, *others = [layer for layer in self.field.ode if hasattr(layer, "weight")]
        phases = self.field.freqs * time
        waves = torch.cat([phases.cos(), phases.sin()]).expand(len(z), -1)
        value = first(torch.cat([waves, z, context], -1))
        tangents = first.weight[:, waves.shape[1] : waves.shape[1] + self.features].T
        for layer in others:
            gate = value.sigmoid()
            slope = gate * (1 + value * (1 - gate))
            value, tangents = layer(value * gate), (slope[:, None] * tangents) @ layer.weight.T
        divergence = tangents.diagonal(dim1=-2, dim2=-1).sum(-1)
        return torch.cat([value, divergence.expand(len(z))[:, None]], -1)
