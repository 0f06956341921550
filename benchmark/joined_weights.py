"""Weights that an optimiser sees as one vector, so that its step takes a few operations however many tensors there are.

A flow has dozens of small tensors, and an operation on one takes longer to start than to do: steps of Adam were a tenth of its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class JoinedWeights:
    """Parameters that lie next to each other in memory, as one vector in the place of them in an optimiser that works element by element.

    Such an optimiser does the same on the vector. It leaves a parameter without gradient alone, though: once there is one, each
    parameter is seen on its own again, with what the optimiser remembers of it. Other optimisers need ``joined=False``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, joined: bool = True) -> None:
        self._optimizer = optimizer
        (group,) = optimizer.param_groups
        self._parameters: list[nn.Parameter] = list(group["params"])
        self._vector: nn.Parameter | None = None
        if joined and len({(parameter.dtype, parameter.device) for parameter in self._parameters}) == 1:
            self._join()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def take_gradients(self) -> None:
        """Give the optimiser the gradients that the parameters have now; before each of its steps."""
        if self._vector is None:
            return
        gradients = [parameter.grad for parameter in self._parameters]
        if any(gradient is None for gradient in gradients):
            self.separate()
        else:
            self._vector.grad = _joined(cast(list[Tensor], gradients))

    def separate(self) -> None:
        """Give each parameter memory of its own; at the end of a training, since a part would keep the memory of the whole."""
        if self._vector is None:
            return
        remembered = self._optimizer.state.pop(self._vector, {})
        for place, parameter in enumerate(self._parameters):
            parameter.data = parameter.data.clone()
            if remembered:
                self._optimizer.state[parameter] = {name: self._part(value, place) for name, value in remembered.items()}
        self._see(self._parameters)
        self._vector = None

    def _join(self) -> None:
        self._vector = nn.Parameter(_joined([parameter.data for parameter in self._parameters]))
        for parameter, part in zip(self._parameters, self._parts(self._vector.data), strict=True):
            parameter.data = part
        self._see([self._vector])

    def _see(self, parameters: Sequence[nn.Parameter]) -> None:
        self._optimizer.param_groups[0]["params"] = list(parameters)

    def _part(self, value: Any, place: int) -> Any:
        """Of what is remembered: the part of a parameter, or a number that is the same for all."""
        if not isinstance(value, Tensor):
            return value
        assert self._vector is not None
        return (self._parts(value)[place] if value.shape == self._vector.shape else value).clone()

    def _parts(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([parameter.numel() for parameter in self._parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self._parameters, strict=True)]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
