"""What a likelihood keeps of the events that it saw last, so that refits (normalisation, scans, impacts) do not see them again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

from touchneedle.toys.base import Events, EventSource

Kept = TypeVar("Kept")


class LastSeen:
    """One thing made of one estimator and one data set, made again when either is another one or was changed in place.

    It goes with the events: there is no other reference to them here. Copies are empty.
    """

    def __init__(self) -> None:
        self._events: Callable[[], Any] = lambda: None
        self._state: tuple[Any, ...] = ()
        self._kept: Any = None

    def get(self, estimator: nn.Module, events: EventSource, make: Callable[[], Kept]) -> Kept:
        """What was kept of these events, or else what ``make`` makes of them."""
        state = _state(estimator, events)
        if self._events() is not events or state != self._state:
            self._kept = make()
            self._events, self._state = weakref.ref(events, self._forget), state
        return self._kept

    def _forget(self, gone: object) -> None:
        if gone is self._events:
            self._kept = None

    def __reduce__(self) -> tuple[type[LastSeen], tuple[()]]:
        return (LastSeen, ())


def _state(estimator: nn.Module, events: EventSource) -> tuple[Any, ...]:
    """Where all tensors lie and how often they were changed in place."""
    columns = [events.x, events.weight] if isinstance(events, Events) else []
    return (id(estimator), *_versions([*estimator.parameters(), *estimator.buffers(), *columns]))


def _versions(tensors: Iterable[Tensor]) -> Iterable[Any]:
    return [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors]
