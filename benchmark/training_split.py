"""The split of a cell's events: those that are trained on, and those that choose the epoch.

It depends on the number of events alone, so that it is the same for every estimator, and for events in memory and streamed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Stage
from touchneedle.toys.base import Events, EventSource, collect
from touchneedle.toys.event_stream import PARTS, EventStream
from touchneedle.toys.events import take


@dataclass(frozen=True)
class TrainingSplit:
    """The events of a training.

    Attributes:
        every: all of them, for methods that are not trained by gradient.
        training: what stages train on, in memory or a stream.
        validation: what chooses the epoch, in memory.
        rows: of the training events among all (n,); None for a stream.
    """

    every: EventSource
    training: EventSource
    validation: Events
    rows: Tensor | None = None

    def of(self, stage: Stage) -> tuple[EventSource, Events]:
        """Training and validation events that a stage uses; raises `SkipCell` if it would have to choose among streamed events."""
        if stage.event_filter is None:
            return self.training, self.validation
        if not isinstance(self.training, Events):
            raise SkipCell(f"stage {stage.name}: it chooses its events, which must be in memory for that; raise data.memory_limit")
        return stage.select(self.training), stage.select(self.validation)

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise `SkipCell` for a stage without events: without validation events the weights of a random epoch would be kept."""
        for stage in stages:
            training, validation = map(len, self.of(stage))
            if not (training and validation):
                raise SkipCell(
                    f"stage {stage.name}: expected events of its own; got {training} for training, {validation} for validation: "
                    "raise the budget"
                )

    def with_weight(self, weight: Tensor) -> TrainingSplit:
        """The same split of events in memory whose weights are others (of all, (n,)); validation events keep theirs."""
        if not isinstance(self.every, Events) or not isinstance(self.training, Events):
            raise InputError("training events: expected events in memory to give them other weights; got a stream")
        training = self.training.with_weight(weight[self.rows])
        return replace(self, every=self.every.with_weight(weight), training=training)


def split_events(source: EventSource, fraction: float) -> TrainingSplit:
    """Training and validation events; a stream that does not fit into its memory limit stays one.

    Raises `InputError` for weights that are not finite or all zero, and for validation events that do not fit.
    """
    if isinstance(source, EventStream) and not source.fits:
        return _split_stream(source, fraction)
    events = collect(source)
    if not bool(torch.isfinite(events.weight).all()) or float(events.weight.abs().sum()) == 0:
        raise InputError("training events: expected finite weights that are not all zero")
    training, validation = split_rows(len(events), fraction)
    return TrainingSplit(events, events[training], events[validation], training)


def split_rows(n: int, fraction: float, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """Rows of the training and of the validation events, in the order that these have."""
    n_validation = _count(n, fraction)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n), dtype=dtype)
    return order[n_validation:], order[:n_validation]


def _split_stream(stream: EventStream, fraction: float) -> TrainingSplit:
    _check_room(stream, fraction)
    # The same order in half of the memory.
    rows = split_rows(len(stream), fraction, torch.int32)[1].long()
    return TrainingSplit(stream, stream.without(rows), take(stream, rows))


def _check_room(stream: EventStream, fraction: float) -> None:
    n, limit = len(stream), stream.memory_limit or 0
    if n * torch.int32.itemsize > limit // 2:
        raise InputError(f"data.memory_limit: expected {2 * n * torch.int32.itemsize:,} bytes or more to split {n:,} events; got {limit:,}")
    room = limit // PARTS / stream.event_bytes / n
    if _count(n, fraction) > room * n:
        good = 10 ** math.floor(math.log10(room))
        raise InputError(
            f"trainer.validation_fraction={fraction:g}: {_count(n, fraction):,} events of {stream.event_bytes} bytes are more than "
            f"{1 / PARTS:.0%} of data.memory_limit ({limit:,} bytes); set trainer.validation_fraction={good:g}"
        )


def _count(n: int, fraction: float) -> int:
    return max(1, round(fraction * n))
