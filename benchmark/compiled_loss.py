"""The loss of a training step, compiled for full batches: checked against the plain loss at first, and given up if it differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from touchneedle.estimators.compilation import compiled
from touchneedle.toys.base import Events

Loss = Callable[[Events, torch.Generator], Tensor]
# Share by which the losses and their gradient may differ at first: rounding of reduced precision, and no more.
TOLERANCE = 0.05


class CompiledLoss:
    """A loss compiled for as many events as it sees first; other numbers of events are left to the plain one.

    Validation, and the smaller last batch of an epoch, would each have to be compiled for their shapes, which takes longer than they do.
    """

    def __init__(self, plain: Loss, parameters: Sequence[nn.Parameter]) -> None:
        self.plain, self.parameters = plain, parameters
        self.size, self.fast = 0, plain

    def __call__(self, events: Events, generator: torch.Generator) -> Tensor:
        """Loss of each event (n,)."""
        if not self.size:
            self.size, self.fast = len(events), compiled(self.plain, lambda fast: self._compare(fast, events, generator), "the loss")
        return (self.fast if len(events) == self.size else self.plain)(events, generator)

    def _compare(self, fast: Loss, events: Events, generator: torch.Generator) -> None:
        """Raise `ArithmeticError` where a compiled loss or its gradient is another."""
        for mine, other in zip(self._answers(fast, events, generator), self._answers(self.plain, events, generator), strict=True):
            difference, size = float((mine - other).norm()), float(other.norm())
            if difference > TOLERANCE * size:
                raise ArithmeticError(f"expected the plain loss within {TOLERANCE:.0%}; got a difference of {difference:.3g} to {size:.3g}")

    def _answers(self, loss: Loss, events: Events, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Losses and the gradient of their sum, with random numbers that will be drawn again."""
        values = loss(events, generator.clone_state())
        gradients = torch.autograd.grad(values.sum(), self.parameters, allow_unused=True, materialize_grads=True)
        return values.detach(), torch.cat([gradient.flatten() for gradient in gradients])
