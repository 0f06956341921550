"""Training events in batches, reshuffled every epoch by an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from touchneedle.toys.base import Events, EventSource


class Batches(Protocol):
    """The batches of an epoch: rows of events in memory, or events."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor | Events]: ...


class IndexBatches:
    """Batches of the indices of events in memory; in order without a generator.

    Events stay where they are: a data loader over single events costs several times more per step.
    """

    def __init__(self, n: int, size: int, generator: torch.Generator | None = None) -> None:
        self.n, self.size, self.generator = n, size, generator

    def __len__(self) -> int:
        return math.ceil(self.n / self.size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.n) if self.generator is None else torch.randperm(self.n, generator=self.generator)
        yield from order.split(self.size)


class StreamBatches:
    """Batches of streamed events, as many and as large as of events in memory."""

    def __init__(self, source: EventSource, size: int, generator: torch.Generator) -> None:
        self.source, self.size, self.generator = source, size, generator

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.size)

    def __iter__(self) -> Iterator[Events]:
        return self.source.batches(self.size, self.generator)
