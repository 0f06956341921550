"""Training events that do not fit into memory: parquet or ROOT files, read by row group, shuffled within a window.

Memory is counted in tenths of the limit (`PARTS`): at most one holds the window of events that are shuffled together, one the window that
threads fill meanwhile, two the row groups that they decode for it, and one is left to validation events. So
events take half of the limit at most; the other half is for the program and its libraries. These alone (torch, scipy) take a third of
a gigabyte: a limit below 1 GB cannot hold, and what a toy takes to draw its events comes on top.

Each epoch has its own order of row groups; as many as fill a window are mixed. A file that fits into two parts is one window, in the order
that `Events` have: whether its events were read or are in memory makes no difference. Every event comes once an epoch, and nothing
depends on the number of threads.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import accumulate, islice, pairwise
from pathlib import Path

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.toys.base import ToySpec
from touchneedle.toys.event_groups import RowGroup, find_files, open_files
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
        tree: the TTree or RNTuple of ROOT files; by default the only one. A range of its entries counts as a row group.

    Raises `InputError` for files that are not there, the same, empty, truncated or of different schemas, and for a row group that
    is larger than a part of the limit. Values are checked when they are read for the first time.
    """

    def __init__(
        self, paths: str | Path | Sequence[str | Path], spec: ToySpec, memory_limit: int | None = None, workers: int = 2, tree: str = ""
    ) -> None:
        self.paths = find_files([paths] if isinstance(paths, str | Path) else paths)
        self.spec, self.memory_limit, self.workers = spec, memory_limit, workers
        self._layout, self._groups = open_files(self.paths, spec, tree)
        self._left_out = torch.empty(0, dtype=torch.int64)
        self._checked: set[int] = set()
        self._rows = sum(group.rows for group in self._groups)
        if not self.fits:
            self._check_groups()

    def __len__(self) -> int:
        return self._rows - len(self._left_out)

    @property
    def event_bytes(self) -> int:
        """Bytes that an event takes in memory."""
        return self._layout.event_bytes

    @property
    def fits(self) -> bool:
        """Whether all events of the files may be in memory at once."""
        return self.memory_limit is None or self._rows * self.event_bytes <= 2 * self.memory_limit // PARTS

    @property
    def window(self) -> int:
        """Number of events that are shuffled together."""
        return self._rows if self.memory_limit is None or self.fits else self.memory_limit // PARTS // self.event_bytes

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Events]:
        """Batches of ``size`` events (the last: what is left), in the order of the files, or shuffled if a generator is given."""
        return in_batches(self._in_order() if generator is None else self._shuffled(size, generator), size)

    def without(self, rows: Tensor) -> EventStream:
        """The same events but for some rows (m,) of the files, which are counted over all of them."""
        other = copy.copy(self)
        other._left_out = torch.cat([self._left_out, rows]).unique()
        return other

    def require_memory(self) -> None:
        """Raise `SkipCell` if the events do not fit."""
        if not self.fits:
            raise SkipCell(
                f"this method needs all training events in memory: {len(self):,} of {self.event_bytes} bytes are more than {2 / PARTS:.0%} "
                f"of data.memory_limit ({self.memory_limit:,} bytes); choose one that streams (ratio_bce, spline_flow), or raise the limit"
            )

    def _in_order(self) -> Iterator[Events]:
        """The events of each row group."""
        with closing(self._read_ahead(self._groups)) as parts:
            for group, part in zip(self._groups, parts, strict=True):
                yield part[self._kept([group])] if len(self._left_out_of(group)) else part

    def _shuffled(self, size: int, generator: torch.Generator) -> Iterator[Events]:
        """Batches of ``size`` events; two pieces of one where windows meet."""
        count, missing = len(self._groups), 0
        order = range(count) if self.fits else torch.randperm(count, generator=generator).tolist()
        windows = list(self._windows([self._groups[place] for place in order]))
        with closing(self._filled(windows)) as filled:
            for groups, window in zip(windows, filled, strict=True):
                chosen = self._permuted(groups, generator)
                for rows in (chosen[:missing], *chosen[missing:].split(size)):
                    yield window[rows]
                missing = (missing - len(chosen)) % size

    def _filled(self, windows: Sequence[Sequence[RowGroup]]) -> Generator[Events, None, None]:
        """The events of each window, valid until the next one is asked for: two places take turns, and threads fill the other one."""
        sizes = [sum(group.rows for group in groups) for groups in windows]
        places = [self._layout.empty(max(sizes)) for _ in windows[:2]]
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="read-ahead")

        def fill(number: int) -> list[Future[None]]:
            edges = accumulate((group.rows for group in windows[number]), initial=0)
            rooms = (places[number % 2][start:stop] for start, stop in pairwise(edges))
            return [pool.submit(self._put, group, room) for group, room in zip(windows[number], rooms, strict=True)]

        try:
            jobs = fill(0)
            for number, size in enumerate(sizes):
                following = fill(number + 1) if number + 1 < len(windows) else []
                for job in jobs:
                    job.result()
                yield places[number % 2][:size]
                jobs = following
        finally:
            pool.shutdown(cancel_futures=True)

    def _windows(self, groups: Sequence[RowGroup]) -> Iterator[list[RowGroup]]:
        """As many row groups at a time as fit into a window; all, if all fit into memory."""
        mixed: list[RowGroup] = []
        rows = 0
        for group in groups:
            if mixed and rows + group.rows > self.window:
                yield mixed
                mixed, rows = [], 0
            mixed.append(group)
            rows += group.rows
        yield mixed

    def _permuted(self, groups: Sequence[RowGroup], generator: torch.Generator) -> Tensor:
        """Places of the events that are not left out, in an order of chance."""
        if not any(len(self._left_out_of(group)) for group in groups):
            return torch.randperm(sum(group.rows for group in groups), generator=generator)
        kept = self._kept(groups)
        return kept.index_select(0, torch.randperm(len(kept), generator=generator))

    def _kept(self, groups: Sequence[RowGroup]) -> Tensor:
        """Places of the events that are not left out among those of some row groups, one after the other."""
        masks = [torch.ones(group.rows, dtype=torch.bool) for group in groups]
        for group, mask in zip(groups, masks, strict=True):
            mask[self._left_out_of(group)] = False
        return torch.cat(masks).nonzero().squeeze(1)

    def _left_out_of(self, group: RowGroup) -> Tensor:
        """Rows of a row group that are left out."""
        first, last = torch.searchsorted(self._left_out, torch.tensor([group.start, group.start + group.rows])).tolist()
        return self._left_out[first:last] - group.start

    def _read_ahead(self, groups: Sequence[RowGroup]) -> Generator[Events, None, None]:
        """Events of row groups; threads read the next ones meanwhile."""
        left = iter(groups)
        waiting: deque[Future[Events]] = deque()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="read-ahead")
        try:
            waiting.extend(pool.submit(self._read, group) for group in islice(left, self._ahead))
            while waiting:
                waiting[0].result()
                # No name is kept of what is handed over, so that it is freed once it has been used.
                yield waiting.popleft().result()
                waiting.extend(pool.submit(self._read, group) for group in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def _ahead(self) -> int:
        """Row groups that are read ahead: with the one that is used, as many as fill two windows."""
        return 2 * self.workers if self.memory_limit is None else min(_MOST_AHEAD, 2 * self._in_a_window - 1)

    @property
    def _threads(self) -> int:
        """Row groups that may be decoded at once."""
        return min(self.workers, self._in_a_window)

    @property
    def _in_a_window(self) -> int:
        """Row groups that fit into a window, as large as the largest."""
        largest = max(group.rows for group in self._groups)
        return max(1, self.window // largest)

    def _read(self, group: RowGroup) -> Events:
        # Column by column as in the file: who mixes events turns them anyway.
        events = self._layout.empty(group.rows, "F")
        self._put(group, events)
        return events

    def _put(self, group: RowGroup, room: Events) -> None:
        columns = group.columns(self._layout.names)
        self._layout.put(columns, room, group.path, group.first, check=group.start not in self._checked)
        self._checked.add(group.start)

    def _check_groups(self) -> None:
        largest = max(self._groups, key=lambda group: group.rows)
        if largest.rows > self.window:
            raise InputError(
                f"event file {largest.path}: row group {largest.index} has {largest.rows:,} events of {self.event_bytes} bytes; "
                f"data.memory_limit ({self.memory_limit:,} bytes) leaves room for {self.window:,}: write row groups of at most that many, "
                "or raise the limit"
            )
