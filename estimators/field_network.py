"""Velocity fields whose divergence costs no more than the field itself.

A network of two hidden layers, v = W3 s(W2 s(W1 y + c1) + c2), has the Jacobian W3 D2 W2 D1 W1 in y, with the slopes D of the
activations on the diagonals. Its trace is d2^T M d1 with M = W2 * (W1 W3)^T entry by entry: exact in any dimension for one
more product with a matrix of constants, where automatic differentiation needs one pass per dimension (Chen et al. 2018,
arXiv:1806.07366) and Hutchinson's estimate (Grathwohl et al. 2019, arXiv:1810.01367) adds noise. The shifts c1, c2 come from
the time and from a network of the context of any depth, which an integration evaluates once.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import silu

from touchneedle.estimators.networks import mlp

TwoWidths = tuple[PositiveInt, PositiveInt]


class ShiftedLayers(nn.Module):
    """Abstract. Two hidden layers (SiLU) on y (n, features), shifted by time features (n or 1, times) and the code of a context.

    The last layer is 0 before training, which starts at the closed form that the network corrects.
    """

    def __init__(self, features: int, times: int, context: int, hidden: TwoWidths, last: nn.Linear) -> None:
        super().__init__()
        self.features, self.hidden = features, hidden
        self.encoder = mlp(context, sum(hidden), hidden) if context else None
        self.clock = nn.Linear(times, sum(hidden))
        self.first = nn.Linear(features, hidden[0], bias=False)
        self.second = nn.Linear(*hidden, bias=False)
        self.last = last
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def encode(self, context: Tensor) -> Tensor:
        """Code (n, sum of the widths) of a context (n, c): what ``forward`` takes, at every time."""
        return self.encoder(context) if self.encoder is not None else context.new_zeros(1, sum(self.hidden))

    def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        """Field, shape (n, features)."""
        return self.with_divergence(y, time, code)[0]

    @abstractmethod
    def with_divergence(self, y: Tensor, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Field (n, features), and its divergence in y (n,)."""

    def _shifts(self, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        first, second = (self.clock(time) + code).split(self.hidden, -1)
        return first, second


class FieldNetwork(ShiftedLayers):
    """v(y, time, context), whatever field it is."""

    def __init__(self, features: int, times: int, context: int, hidden: TwoWidths) -> None:
        super().__init__(features, times, context, hidden, nn.Linear(hidden[1], features))

    def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        """v, shape (n, features)."""
        shift_1, shift_2 = self._shifts(time, code)
        return self.last(silu(self.second(silu(self.first(y) + shift_1)) + shift_2))

    def with_divergence(self, y: Tensor, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """v (n, features), and its divergence in y (n,)."""
        shift_1, shift_2 = self._shifts(time, code)
        first, slope_1 = _silu_and_slope(self.first(y) + shift_1)
        second, slope_2 = _silu_and_slope(self.second(first) + shift_2)
        mixing = self.second.weight * (self.first.weight @ self.last.weight).T
        return self.last(second), ((slope_1 @ mixing.T) * slope_2).sum(-1)


class PotentialNetwork(ShiftedLayers):
    """Minus the gradient in y of a scalar phi(y, time, context): a field without circulation."""

    def __init__(self, features: int, times: int, context: int, hidden: TwoWidths) -> None:
        super().__init__(features, times, context, hidden, nn.Linear(hidden[1], 1, bias=False))

    def potential(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        """phi, shape (n,)."""
        shift_1, shift_2 = self._shifts(time, code)
        return self.last(silu(self.second(silu(self.first(y) + shift_1)) + shift_2)).squeeze(-1)

    def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        """-grad phi, shape (n, features)."""
        shift_1, shift_2 = self._shifts(time, code)
        first, slope_1 = _silu_and_slope(self.first(y) + shift_1)
        _, slope_2 = _silu_and_slope(self.second(first) + shift_2)
        return -((slope_2 * self.last.weight) @ self.second.weight * slope_1) @ self.first.weight

    def with_divergence(self, y: Tensor, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """-grad phi (n, features), and minus the Laplacian of phi (n,): one product of matrices per feature."""
        shift_1, shift_2 = self._shifts(time, code)
        before_1 = self.first(y) + shift_1
        first, slope_1 = _silu_and_slope(before_1)
        before_2 = self.second(first) + shift_2
        _, slope_2 = _silu_and_slope(before_2)
        back = (slope_2 * self.last.weight) @ self.second.weight
        forth = torch.einsum("nb,bi,ab->nia", slope_1, self.first.weight, self.second.weight)
        laplacian = (_silu_curvature(before_1) * back * self.first.weight.square().sum(-1)).sum(-1)
        laplacian = laplacian + (forth.square().sum(1) * _silu_curvature(before_2) * self.last.weight).sum(-1)
        return -(back * slope_1) @ self.first.weight, -laplacian


def _silu_and_slope(value: Tensor) -> tuple[Tensor, Tensor]:
    gate = value.sigmoid()
    activation = value * gate
    return activation, torch.addcmul(gate, activation, 1 - gate)


def _silu_curvature(value: Tensor) -> Tensor:
    gate = value.sigmoid()
    return gate * (1 - gate) * (2 + value * (1 - 2 * gate))
