"""Events: what a simulator hands over, in memory (`Events`) or streamed (`EventSource`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError

# Events of a stream that are looked at together: few enough for what is computed of them to be small beside a row group.
CHUNK = 2**14


@dataclass(frozen=True)
class Feature:
    """One observable: a column of x.

    Attributes:
        support: (low, high) outside which the density is zero, if any.
        missing: the value that marks a missing entry, if any.
    """

    name: str
    unit: str = ""
    latex: str = ""
    kind: Literal["continuous", "discrete", "periodic"] = "continuous"
    support: tuple[float, float] | None = None
    missing: float | None = None


@dataclass(frozen=True)
class Events:
    """A batch of n weighted events.

    Attributes:
        x: observables (n, d), float32 from simulators.
        theta: parameter point that each event stands for (n, p), float64.
        weight: event weights (n,).
        label: process index (n,), int64, where the simulator knows it.
        generated_at: parameter point that generated the event (n, p); ``theta`` unless said.
        joint_log_ratio: log p(x, z|theta) - log p(x, z|theta_0) (n,), evaluated at ``theta``.
        joint_score: grad_theta log p(x, z|theta) (n, p), evaluated at ``theta``
            (Brehmer et al. 2018, arXiv:1805.00020, eqs. 3 and 4).
        base: what x is computed from at every theta (n, b), where a `FiniteToy` moves its events: objects before the
            shift and frozen latents.
    """

    x: Tensor
    theta: Tensor
    weight: Tensor
    label: Tensor | None = None
    generated_at: Tensor | None = None
    joint_log_ratio: Tensor | None = None
    joint_score: Tensor | None = None
    base: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.x)
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != n:
                raise InputError(f"events: expected {n} rows in {field.name}, as in x; got {len(value)}")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Events:
        """The chosen events (a slice, a mask or an index tensor)."""
        chosen: dict[str, Any] = {f.name: None if (v := getattr(self, f.name)) is None else _rows(v, index) for f in fields(self)}
        return Events(**chosen)

    def to(self, device: torch.device | str) -> Events:
        """The same events on another device."""
        moved: dict[str, Any] = {f.name: None if (v := getattr(self, f.name)) is None else v.to(device) for f in fields(self)}
        return Events(**moved)

    def put(self, index: Tensor | slice, events: Events) -> None:
        """Write other events with the same columns in the chosen places."""
        for field in fields(self):
            column = getattr(self, field.name)
            if column is not None:
                column[index] = getattr(events, field.name)

    def with_weight(self, weight: Tensor) -> Events:
        """The same events with other weights."""
        return replace(self, weight=weight)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Events]:
        """Batches of at most ``size`` events, shuffled if a generator is given."""
        n = len(self)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for start in range(0, n, size):
            yield self[order[start : start + size]]


@runtime_checkable
class EventSource(Protocol):
    """Where training events come from; `Events` is one (in memory), files are another (streamed)."""

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Events]:
        """Batches of at most ``size`` events."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class LimitedSource(EventSource, Protocol):
    """A source that knows how much memory its events may take."""

    def require_memory(self) -> None:
        """Raise `SkipCell` if all events together take more."""
        ...


def collect(source: EventSource, limit: int | None = None) -> Events:
    """The first ``limit`` events of a source (all by default) in memory; `SkipCell` where all are more than a stream may hold."""
    if isinstance(source, Events):
        return source if limit is None else source[:limit]
    if limit is None and isinstance(source, LimitedSource):
        source.require_memory()
    parts: list[Events] = []
    have = 0
    for batch in source.batches(CHUNK):
        parts.append(batch)
        have += len(batch)
        if limit is not None and have >= limit:
            break
    return concatenate(parts)[: limit if limit is not None else have]


def in_chunks(source: EventSource) -> Iterator[Events]:
    """All events of a source, for what is summed in one pass: those in memory as they are, others a batch at a time."""
    return iter((source,)) if isinstance(source, Events) else source.batches(CHUNK)


def in_batches(parts: Iterable[Events], size: int) -> Iterator[Events]:
    """The events of several parts in batches of ``size``, the last one of what is left."""
    rest: list[Events] = []
    for part in parts:
        start, have = 0, sum(map(len, rest))
        while have + len(part) - start >= size:
            stop = start + size - have
            yield concatenate([*rest, part[start:stop]]) if rest else part[start:stop]
            rest, have, start = [], 0, stop
        if start < len(part):
            rest.append(part[start:])
    if rest:
        yield concatenate(rest)


def take(source: EventSource, rows: Tensor) -> Events:
    """The events in these rows (m,) of a source, in this order; of a stream in one pass."""
    if isinstance(source, Events):
        return source[rows]
    ordered, places = rows.sort()
    taken: Events | None = None
    start = 0
    for batch in source.batches(CHUNK):
        # Filled in place: many small pieces that stay would leave holes in the memory between large ones that go.
        taken = empty_like(batch, len(rows)) if taken is None else taken
        ends = torch.tensor([start, start + len(batch)], dtype=ordered.dtype)
        first, last = torch.searchsorted(ordered, ends).tolist()
        taken.put(places[first:last], batch[ordered[first:last] - start])
        start += len(batch)
    if taken is None:
        raise InputError("events: expected some to take rows of; got none")
    return taken


def evenly_spaced(source: EventSource, size: int) -> Events:
    """At most ``size`` events of a source, evenly spaced, the first and the last among them."""
    n = len(source)
    return take(source, torch.linspace(0, n - 1, min(size, n), dtype=torch.float64).round().long())


def _rows(values: Tensor, index: Tensor | slice) -> Tensor:
    """values[index]; whole rows are copied four times as fast as torch's general indexing copies them, by numpy a little faster still."""
    if not (isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1 and index.device == values.device):
        return values[index]
    # What does not lie row by row, numpy would copy as a whole first.
    if values.ndim == 2 and values.is_cpu and values.is_contiguous() and not values.requires_grad:
        return torch.from_numpy(values.numpy().take(index.numpy(), 0))
    return values.index_select(0, index)


def empty_like(events: Events, n: int) -> Events:
    """``n`` events with the columns of others, to be filled."""
    columns = {field.name: getattr(events, field.name) for field in fields(events)}
    empty: dict[str, Any] = {name: None if value is None else value.new_empty((n, *value.shape[1:])) for name, value in columns.items()}
    return Events(**empty)


def concatenate(parts: list[Events]) -> Events:
    """One `Events` from several; an optional column is kept if all parts have it."""
    columns: dict[str, Any] = {}
    for field in fields(Events):
        values = [getattr(part, field.name) for part in parts]
        columns[field.name] = None if any(v is None for v in values) else torch.cat(values)
    return Events(**columns)
