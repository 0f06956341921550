"""A continuous flow: z moves along a vector field, and its density changes by the divergence of the field.

dz/dt = f(t, z, c) from the data at t = 0 to noise at t = 1, log |d noise / d z| = integral of div f dt
(Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366; Grathwohl et al. 2018, arXiv:1810.01367). The field
is zuko's; the integration is not: steps that adapt to a batch give an event another number in another batch.
Here they are equal steps of the classical Runge-Kutta method, and the divergence is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zuko.flows.continuous import FFJTransform

from touchneedle.estimators.conditional_flow import ConditionalFlow


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
        end = self._integrate(lambda time, state: self._with_divergence(time, state[:, :-1], context), start, 0.0, 1.0)
        return end[:, :-1], end[:, -1]

    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        return self._integrate(lambda time, state: self.field.f(time, state, context), noise, 1.0, 0.0)

    def _with_divergence(self, time: Tensor, z: Tensor, context: Tensor) -> Tensor:
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

    def _integrate(self, field: Callable[[Tensor, Tensor], Tensor], state: Tensor, start: float, end: float) -> Tensor:
        """The state at ``end``, from ``start``: Runge-Kutta steps of fourth order."""
        count = int(self.steps)
        step = (end - start) / count
        for time in torch.arange(count).to(state) * step + start:
            first = field(time, state)
            second = field(time + step / 2, state + step / 2 * first)
            third = field(time + step / 2, state + step / 2 * second)
            fourth = field(time + step, state + step * third)
            state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
        return state
