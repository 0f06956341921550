"""The loss of a training step, compiled for full batches: checked against the plain loss at first, and given up if it differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from touchneedle.benchmark.joined_weights import as_vector
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
        (values, gradients), (plain, plain_gradients) = (self._answers(loss, events, generator) for loss in (fast, self.plain))
        if [gradient is None for gradient in gradients] != [gradient is None for gradient in plain_gradients]:
            # An optimiser leaves a parameter without gradient alone; one whose gradient is 0 it may still move.
            raise ArithmeticError("expected gradients of the parameters that the plain loss depends on, and of no others")
        for mine, other in ((values, plain), (as_vector(gradients), as_vector(plain_gradients))):
            difference, size = float((mine - other).norm()), float(other.norm())
            if difference > TOLERANCE * size:
                raise ArithmeticError(f"expected the plain loss within {TOLERANCE:.0%}; got a difference of {difference:.3g} to {size:.3g}")

    def _answers(self, loss: Loss, events: Events, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Losses and the gradients of their sum, with random numbers that will be drawn again."""
        values = loss(events, generator.clone_state())
        return values.detach(), torch.autograd.grad(values.sum(), self.parameters, allow_unused=True)
