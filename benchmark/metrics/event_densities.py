"""Frozen test events with their learned and exact log densities, one set per theta point.

The events depend on the toy and the seed alone, so that two methods' numbers can be paired event by event
(`touchneedle.benchmark.paired`): their per-event values are kept beside the record (``events.parquet``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.scores import Table
from touchneedle.toys.base import Events, ExactToy

TABLE_ROWS = 100_000


@dataclass(frozen=True)
class EventDensities:
    """Test events of one theta point; x itself is not kept.

    Attributes:
        point: index of the theta point.
        weight: event weights (n,).
        log_p: exact log density (n,); None unless the toy has one.
        log_q: learned log density (n,); None unless the estimator has one.
        log_ratio: learned log_ratio (n,) where there is no ``log_q``.
    """

    point: int
    weight: Tensor
    log_p: Tensor | None = None
    log_q: Tensor | None = None
    log_ratio: Tensor | None = None

    @property
    def log_difference(self) -> Tensor | None:
        """D = log p - log q (n,), if both are known."""
        return None if self.log_p is None or self.log_q is None else log_difference(self.log_p, self.log_q)


def event_densities(context: EvaluationContext, index: int) -> EventDensities:
    """Densities at theta point ``index``: of all test events where both are known, of those kept otherwise."""
    both = isinstance(context.toy, ExactToy) and "log_prob" in context.estimator.capabilities
    n = context.config.n_test if both else min(context.config.n_test, TABLE_ROWS // len(context.points))
    theta = context.points[index]
    parts = [_columns(context, batch, theta) for batch in context.batches_at(theta, n, "density", index)]
    return EventDensities(point=index, **{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def log_difference(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p - log q, and 0 where both densities vanish."""
    nowhere = torch.isneginf(log_p) & torch.isneginf(log_q)
    return torch.where(nowhere, 0.0, log_p - log_q)


def events_table(sets: Sequence[EventDensities]) -> Table:
    """Columns point, event, weight, log_p, and log_q or log_ratio, of the first events of every point; float32."""
    rows = TABLE_ROWS // len(sets)
    columns: dict[str, NDArray[np.generic]] = {
        "point": np.concatenate([np.full(len(part.weight[:rows]), part.point, dtype=np.int32) for part in sets]),
        "event": np.concatenate([np.arange(len(part.weight[:rows]), dtype=np.int32) for part in sets]),
    }
    for name in ("weight", "log_p", "log_q", "log_ratio"):
        values = [getattr(part, name) for part in sets]
        if values[0] is not None:
            columns[name] = torch.cat([value[:rows] for value in values]).float().numpy()
    return columns


def _columns(context: EvaluationContext, events: Events, theta: Tensor) -> dict[str, Tensor]:
    toy, estimator = context.toy, context.estimator
    learned = "log_q" if "log_prob" in estimator.capabilities else "log_ratio"
    with torch.no_grad():
        columns = {
            "weight": events.weight.double(),
            learned: (estimator.log_prob if learned == "log_q" else estimator.log_ratio)(events.x, theta).cpu(),
        }
        if isinstance(toy, ExactToy):
            columns["log_p"] = toy.log_prob(events.x, theta)
    return columns
