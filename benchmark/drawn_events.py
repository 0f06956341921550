"""Training events of a toy that would not fit into memory: drawn in chunks, whenever they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from touchneedle.benchmark.data import draw_events
from touchneedle.benchmark.seeding import derive_generator
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, SimulatedToy
from touchneedle.toys.events import in_batches

_CHUNK = 2**17


@dataclass(frozen=True)
class DrawnEvents:
    """An `EventSource` of ``n`` training events; memory is that of a chunk, and each chunk has a seed of its own.

    They are as random as the events that `make_events` draws at once, but others; a design has its shares in every chunk.
    """

    toy: SimulatedToy
    n: int
    design: str
    seed: int

    def __len__(self) -> int:
        return self.n

    def batches(self, size: int, generator: object = None) -> Iterator[Events]:
        """Batches of ``size`` events, the same in every pass; raises `InputError` for a generator."""
        if generator is not None:
            raise InputError("drawn events: expected no generator, they come in their own order; write them to a file to shuffle them")
        return in_batches(self._chunks(), size)

    def _chunks(self) -> Iterator[Events]:
        count = math.ceil(self.n / _CHUNK)
        for k in range(count):
            size = (k + 1) * self.n // count - k * self.n // count
            labels = ("data", self.toy.spec.name, self.toy.spec.version, self.n, self.design, "chunk", k)
            yield draw_events(self.toy, size, self.design, derive_generator(self.seed, *labels))
