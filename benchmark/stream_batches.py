"""Streamed training events as the batches of a data loader."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset

from touchneedle.toys.base import Events, EventSource


class StreamBatches(IterableDataset[Events]):
    """Batches of streamed events, as many and as large as of events in memory, reshuffled every epoch by an explicit generator."""

    def __init__(self, source: EventSource, size: int, generator: torch.Generator) -> None:
        self.source, self.size, self.generator = source, size, generator

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.size)

    def __iter__(self) -> Iterator[Events]:
        return self.source.batches(self.size, self.generator)
