"""What the training loop trains: one estimator, or several of one kind in one stacked pass.

Stacked members are one function of stacked weights (``torch.func``: `stack_module_state`, `functional_call`,
`vmap`); their gradients do not mix, and every optimiser of the library works element by element, so each member is
trained as if it were alone. They share the order of the events and the random numbers of the loss.

What is gained is the fixed cost of an operation and of a step of the trainer, paid once for all members: the operations of
small networks on small batches last no longer than it takes to start them. Large ones are bound by arithmetic, and gain nothing.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from touchneedle.benchmark.compiled_loss import CompiledLoss
from touchneedle.benchmark.joined_weights import as_vector
from touchneedle.estimators.base import Estimator, Stage
from touchneedle.toys.base import Events, EventSource, collect

_PROBED_EVENTS = 16
# Events of all members together in one pass on a CPU: more gain nothing, and the memory of validation would grow with the members.
_ROWS_AT_A_TIME = 2**13


class Trainee(nn.Module, ABC):
    """Abstract. K estimators in one stage of their training."""

    @abstractmethod
    def trained(self) -> list[nn.Parameter]:
        """The tensors that the optimiser moves."""

    @abstractmethod
    def losses(self, events: Events, rows: Tensor | None, generator: torch.Generator) -> Tensor:
        """Weighted loss of each member and event (K, n); ``rows`` are those of the training events, None in validation."""

    @abstractmethod
    def states(self) -> list[dict[str, Tensor]]:
        """A copy of each member's weights."""

    @abstractmethod
    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Give the members these weights, on the CPU."""

    @abstractmethod
    def clip_gradients(self, largest: float) -> None:
        """Cut each member's gradient to a norm."""


class OneMember(Trainee):
    """A single estimator; its loss is compiled in training if asked for."""

    def __init__(self, estimator: Estimator, stage: Stage, *, compile: bool = False) -> None:
        super().__init__()
        self.estimator, self.stage = estimator, stage
        self._training_loss = CompiledLoss(estimator.loss, stage.parameters) if compile else estimator.loss

    def trained(self) -> list[nn.Parameter]:
        """The stage's parameters."""
        return list(self.stage.parameters)

    def losses(self, events: Events, rows: Tensor | None, generator: torch.Generator) -> Tensor:
        """The estimator's own loss (1, n)."""
        loss = self._training_loss if self.training else self.estimator.loss
        return loss(events, generator)[None]

    def states(self) -> list[dict[str, Tensor]]:
        """The state_dict."""
        return [copy.deepcopy(self.estimator.state_dict())]

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Load it."""
        self.estimator.load_state_dict(states[0])
        self.estimator.cpu()

    def clip_gradients(self, largest: float) -> None:
        """By the norm over all parameters."""
        norm = as_vector(parameter.grad for parameter in self.stage.parameters).norm()
        if not _needless(norm, largest):
            nn.utils.clip_grads_with_norm_(self.trained(), largest, norm)


class StackedMembers(Trainee):
    """Several estimators of one kind; their buffers and weights must have equal shapes.

    Args:
        stages: the same stage of each member.
        weights: event weights of each member (K, n) where they differ (bootstrap), in the order of the training events.
    """

    weights: Tensor | None

    def __init__(self, members: Sequence[Estimator], stages: Sequence[Stage], weights: Tensor | None) -> None:
        super().__init__()
        self.members = list(members)
        wanted = {id(parameter) for parameter in stages[0].parameters}
        tensors = [dict([*member.named_parameters(), *member.named_buffers()]) for member in members]
        self.names = [name for name, tensor in tensors[0].items() if id(tensor) in wanted]
        self.fixed_names = [name for name in tensors[0] if name not in self.names]
        self.stacked = nn.ParameterList([nn.Parameter(_stack(tensors, name)) for name in self.names])
        for place, name in enumerate(self.fixed_names):
            self.register_buffer(f"fixed_{place}", _stack(tensors, name))
        self.register_buffer("weights", weights)
        # Called with the stacked weights in the place of its own; in a tuple, so that it is no part of this module.
        self._called = (_LossOf(members[0]),)

    def trained(self) -> list[nn.Parameter]:
        """Stacked parameters (K, ...)."""
        return list(self.stacked)

    def losses(self, events: Events, rows: Tensor | None, generator: torch.Generator) -> Tensor:
        """The members' losses (K, n) in one pass, or in several with the same random numbers where a CPU has many events."""
        self._called[0].train(self.training)
        own = None if self.weights is None or rows is None else self.weights[:, rows]
        size = self._members_at_a_time(events)
        drawn = generator.get_state()
        parts = []
        for first in range(0, len(self.members), size):
            generator.set_state(drawn)
            parts.append(self._losses_of(slice(first, first + size), events, own, generator))
        return torch.cat(parts)

    def _members_at_a_time(self, events: Events) -> int:
        return max(1, _ROWS_AT_A_TIME // max(1, len(events))) if events.x.device.type == "cpu" else len(self.members)

    def _losses_of(self, chosen: slice, events: Events, own: Tensor | None, generator: torch.Generator) -> Tensor:
        """The losses (k, n) of some members; ``own`` are the event weights of all members (K, n), None if they share the events'."""

        def one(trained: Sequence[Tensor], fixed: Sequence[Tensor], weight: Tensor) -> Tensor:
            tensors = zip([*self.names, *self.fixed_names], [*trained, *fixed], strict=True)
            values = {f"estimator.{name}": tensor for name, tensor in tensors}
            return functional_call(self._called[0], values, (events.with_weight(weight), generator))

        trained, fixed = ([tensor[chosen] for tensor in tensors] for tensors in (self.trained(), self._fixed()))
        weight, dimension = (events.weight, None) if own is None else (own[chosen], 0)
        return vmap(one, in_dims=(0, 0, dimension), randomness="same")(trained, fixed, weight)

    def states(self) -> list[dict[str, Tensor]]:
        """One state_dict per member, unstacked."""
        tensors = zip([*self.names, *self.fixed_names], [*self.trained(), *self._fixed()], strict=True)
        named = {name: tensor.detach().clone() for name, tensor in tensors}
        return [{name: tensor[k] for name, tensor in named.items()} for k in range(len(self.members))]

    def restore(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Give every member its own."""
        for member, state in zip(self.members, states, strict=True):
            member.load_state_dict({name: tensor for name, tensor in state.items() if name in member.state_dict()})
            member.cpu()

    def clip_gradients(self, largest: float) -> None:
        """By the norm over each member's parameters."""
        gradients = [parameter.grad for parameter in self.stacked if parameter.grad is not None]
        norm = torch.cat([gradient.flatten(1) for gradient in gradients], 1).norm(dim=1)
        if _needless(norm, largest):
            return
        factor = (largest / (norm + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))

    def _fixed(self) -> list[Tensor]:
        return [self.get_buffer(f"fixed_{place}") for place in range(len(self.fixed_names))]


class _LossOf(nn.Module):
    """An estimator whose loss is its call, as `functional_call` wants it."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, events: Events, generator: torch.Generator) -> Tensor:
        return self.estimator.loss(events, generator)


def can_stack(members: Sequence[Estimator], source: EventSource) -> bool:
    """Whether prepared members can be trained in one pass: equal shapes, and a loss without control flow that reads data."""
    shapes = [{name: tensor.shape for name, tensor in member.state_dict().items()} for member in members]
    if any(other != shapes[0] for other in shapes):
        return False
    stages = [member.stages() for member in members]
    events = source if isinstance(source, Events) else collect(source, _PROBED_EVENTS)
    try:
        for place in range(len(stages[0])):
            with members_frozen_but(members, [stage[place] for stage in stages]):
                trainee = StackedMembers(members, [stage[place] for stage in stages], None)
                chosen = stages[0][place].select(events)
                trainee.losses(chosen[:_PROBED_EVENTS], None, torch.Generator().manual_seed(0)).sum().backward()
    except RuntimeError:  # What vmap raises for anything that it cannot batch.
        return False
    return True


@contextmanager
def members_frozen_but(members: Sequence[Estimator], stages: Sequence[Stage]) -> Iterator[None]:
    """No gradients are computed for parameters of other stages."""
    trained = {id(parameter) for stage in stages for parameter in stage.parameters}
    others = [p for member in members for p in member.parameters() if p.requires_grad and id(p) not in trained]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _needless(norm: Tensor, largest: float) -> bool:
    """Whether no gradient is too long. A GPU is not asked, since it would have to be waited for."""
    return norm.is_cpu and bool((norm <= largest).all())


def _stack(tensors: Sequence[dict[str, Tensor]], name: str) -> Tensor:
    return torch.stack([every[name].detach() for every in tensors])
