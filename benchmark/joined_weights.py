"""Weights that an optimiser sees as few vectors, so that its step takes a few operations however many tensors there are.

A flow has dozens of small tensors, and an operation on one takes longer to start than to do: steps of Adam were a tenth of its training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Of a vector of that many weights all that an optimiser looks at stays in the cache of a CPU; of one of four times as many it
# looks at each in twice the time.
_MOST_IN_A_VECTOR = 2**16


class JoinedWeights:
    """Parameters that lie next to each other in memory, as vectors in the place of them in an optimiser that works element by element.

    Such an optimiser does the same on the vectors. It leaves a parameter without gradient alone, though: once there is one, each
    parameter is seen on its own again, with what the optimiser remembers of it. Other optimisers need ``joined=False``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, joined: bool = True) -> None:
        self._optimizer = optimizer
        (group,) = optimizer.param_groups
        self._parameters: list[nn.Parameter] = list(group["params"])
        self._vectors: list[_Vector] = []
        if joined and len({(parameter.dtype, parameter.device) for parameter in self._parameters}) == 1:
            self._vectors = [_Vector(some) for some in _neighbours(self._parameters)]
            group["params"] = [vector.whole for vector in self._vectors]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def take_gradients(self) -> None:
        """Give the optimiser the gradients that the parameters have now; before each of its steps."""
        if any(parameter.grad is None for parameter in self._parameters):
            self.separate()
        for vector in self._vectors:
            vector.take_gradients()

    def separate(self) -> None:
        """Give each parameter memory of its own; at the end of a training, since a part would keep the memory of the whole."""
        for vector in self._vectors:
            vector.separate(self._optimizer.state)
        self._vectors = []
        self._optimizer.param_groups[0]["params"] = list(self._parameters)


class _Vector:
    """Some parameters as one, ``whole``."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self.whole = nn.Parameter(as_vector(parameter.data for parameter in parameters))
        for parameter, part in zip(parameters, self._parts(self.whole.data), strict=True):
            parameter.data = part

    def take_gradients(self) -> None:
        self.whole.grad = as_vector(parameter.grad for parameter in self._parameters)

    def separate(self, remembered: dict[Any, Any]) -> None:
        """Give each parameter memory of its own, and what an optimiser remembers of it."""
        of_whole = remembered.pop(self.whole, {})
        for place, parameter in enumerate(self._parameters):
            parameter.data = parameter.data.clone()
            if of_whole:
                remembered[parameter] = {name: self._part(value, place) for name, value in of_whole.items()}

    def _part(self, value: Any, place: int) -> Any:
        """The part of a parameter, or a number that is the same for all."""
        if not isinstance(value, Tensor):
            return value
        return (self._parts(value)[place] if value.shape == self.whole.shape else value).clone()

    def _parts(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([parameter.numel() for parameter in self._parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self._parameters, strict=True)]


def _neighbours(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """One after the other, as many together as make a vector."""
    together: list[list[nn.Parameter]] = []
    size = _MOST_IN_A_VECTOR
    for parameter in parameters:
        size += parameter.numel()
        if size > _MOST_IN_A_VECTOR:
            together.append([])
            size = parameter.numel()
        together[-1].append(parameter)
    return together


def as_vector(tensors: Iterable[Tensor | None]) -> Tensor:
    """All numbers of some tensors, one after the other; None, the gradient of what a loss does not depend on, has none."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors if tensor is not None])
