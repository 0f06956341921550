"""Training events that do not fit into memory: parquet files, read by row group, shuffled within a window.

Memory is counted in tenths of the limit (`PARTS`): at most one holds the window of events that are shuffled together, one the row groups
that threads have read ahead, which take three times as much while they are decoded, and one is left to validation events. So
events take half of the limit at most; the other half is for the program and its libraries (torch and Lightning: half a gigabyte).

Each epoch has its own order of row groups; as many as fill a window are mixed. A file that fits into two parts is one window, in the order
that `Events` have: whether its events were read or are in memory makes no difference. Every event comes once an epoch, and nothing
depends on the number of threads.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.toys.base import ToySpec
from touchneedle.toys.event_groups import RowGroup, find_files, open_files, read_table
from touchneedle.toys.events import Events, in_batches

PARTS = 10
# Row groups that wait to be used, however small they are.
_MOST_AHEAD = 32


class EventStream:
    """An `EventSource` over files in the layout of `touchneedle.toys.event_layout`, one after the other.

    Args:
        paths: a file, several, or a pattern such as ``events/*.parquet`` (its files in the order of their names).
        spec: the toy that the events are of.
        memory_limit: bytes of resident memory that the program may take; None for no limit.
        workers: threads that read ahead.

    Raises `InputError` for files that are not there, the same, empty, truncated or of different schemas, and for a row group that
    is larger than a part of the limit. Values are checked as they are read.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path], spec: ToySpec, memory_limit: int | None = None, workers: int = 2) -> None:
        self.paths = find_files([paths] if isinstance(paths, str | Path) else paths)
        self.spec, self.memory_limit, self.workers = spec, memory_limit, workers
        self._layout, self._groups = open_files(self.paths, spec)
        self._left_out = torch.empty(0, dtype=torch.int64)
        self._kept = [group.rows for group in self._groups]
        self._length = sum(self._kept)
        if not self.fits:
            self._check_groups()

    def __len__(self) -> int:
        return self._length

    @property
    def event_bytes(self) -> int:
        """Bytes that an event takes in memory."""
        return self._layout.event_bytes

    @property
    def fits(self) -> bool:
        """Whether all events may be in memory at once."""
        return self.memory_limit is None or len(self) * self.event_bytes <= 2 * self.memory_limit // PARTS

    @property
    def window(self) -> int:
        """Number of events that are shuffled together."""
        return len(self) if self.memory_limit is None or self.fits else self.memory_limit // PARTS // self.event_bytes

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Events]:
        """Batches of ``size`` events (the last: what is left), in the order of the files, or shuffled if a generator is given."""
        return in_batches(self._read_ahead(range(len(self._groups))) if generator is None else self._shuffled(size, generator), size)

    def without(self, rows: Tensor) -> EventStream:
        """The same events but for some rows (m,) of the files, which are counted over all of them."""
        other = copy.copy(self)
        other._left_out = torch.cat([self._left_out, rows]).unique()
        other._kept = [group.rows - len(other._left_out_of(group)) for group in self._groups]
        other._length = sum(other._kept)
        return other

    def require_memory(self) -> None:
        """Raise `SkipCell` if the events do not fit."""
        if not self.fits:
            raise SkipCell(
                f"this method needs all training events in memory: {len(self):,} of {self.event_bytes} bytes are more than {2 / PARTS:.0%} "
                f"of data.memory_limit ({self.memory_limit:,} bytes); choose one that streams (ratio_bce, spline_flow), or raise the limit"
            )

    def _shuffled(self, size: int, generator: torch.Generator) -> Iterator[Events]:
        """Batches of at most ``size`` events, window by window."""
        count = len(self._groups)
        order = list(range(count)) if self.fits else torch.randperm(count, generator=generator).tolist()
        with closing(self._read_ahead(order)) as parts:
            for groups, rows in self._windows(order):
                window = _joined(islice(parts, groups), rows)
                for chosen in torch.randperm(rows, generator=generator).split(size):
                    yield window[chosen]
                # Before the next one is read.
                del window

    def _windows(self, order: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Number of row groups, in this order, and of events in each window."""
        largest, groups, rows = self.window, 0, 0
        for place in order:
            if groups and rows + self._kept[place] > largest:
                yield groups, rows
                groups, rows = 0, 0
            groups, rows = groups + 1, rows + self._kept[place]
        yield groups, rows

    def _read_ahead(self, order: Sequence[int]) -> Iterator[Events]:
        """Events of the row groups in this order; threads read the next ones meanwhile."""
        left = iter(order)
        waiting: deque[Future[Events]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="read-ahead")
        try:
            waiting.extend(pool.submit(self._read, self._groups[place]) for place in islice(left, self._ahead))
            while waiting:
                waiting[0].result()
                # No name is kept of what is handed over, so that it is freed once it has been used.
                yield waiting.popleft().result()
                waiting.extend(pool.submit(self._read, self._groups[place]) for place in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def _ahead(self) -> int:
        """Row groups that are read ahead: as many as fill a window."""
        if self.memory_limit is None:
            return 2 * self.workers
        largest = max(group.rows for group in self._groups)
        return max(1, min(_MOST_AHEAD, self.memory_limit // PARTS // self.event_bytes // largest))

    def _read(self, group: RowGroup) -> Events:
        events = self._layout.events(read_table(group, self._layout.types), group.path, group.first)
        left_out = self._left_out_of(group)
        if not len(left_out):
            return events
        kept = torch.ones(group.rows, dtype=torch.bool)
        kept[left_out - group.start] = False
        return events[kept]

    def _left_out_of(self, group: RowGroup) -> Tensor:
        ends = torch.tensor([group.start, group.start + group.rows])
        first, last = torch.searchsorted(self._left_out, ends).tolist()
        return self._left_out[first:last]

    def _check_groups(self) -> None:
        largest = max(self._groups, key=lambda group: group.rows)
        if largest.rows > self.window:
            raise InputError(
                f"event file {largest.path}: row group {largest.index} has {largest.rows:,} events of {self.event_bytes} bytes; "
                f"data.memory_limit ({self.memory_limit:,} bytes) leaves room for {self.window:,}: write row groups of at most that many, "
                "or raise the limit"
            )


def _joined(parts: Iterator[Events], rows: int) -> Events:
    """Parts as one `Events` of so many rows, without a second copy of all."""
    columns: dict[str, Any] = {}
    start = 0
    for part in parts:
        for field in fields(part):
            value: Tensor | None = getattr(part, field.name)
            if value is not None:
                if field.name not in columns:
                    columns[field.name] = value.new_empty((rows, *value.shape[1:]))
                columns[field.name][start : start + len(part)] = value
        start += len(part)
    return Events(**columns)
