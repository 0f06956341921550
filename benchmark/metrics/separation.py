"""Are test events new? The share of them that was trained on, beyond what chance repeats.

Simulated toys: test events with theta from the prior, against the training events; events of few different values
repeat by chance, as often as independent events of the same number do. Finite toys split by the hash of an event,
so that equal events share a split, and chance repeats none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import share_error
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.scores import MetricInfo
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import FiniteToy, SimulatedToy, collect

METRICS = (
    MetricInfo("closure", "reused_share", "share of test events that are training events, beyond chance", "lower", "training events"),
)
TEST_EVENTS = 10_000
# The first of a stream: enough to find a share of 1 in 10,000 test events.
TRAINING_EVENTS = 1_000_000


def rows(context: EvaluationContext) -> list[Metric]:
    """The one row."""
    if context.training is None:
        return [missing_row("closure", "reused_share", "the training events are not at hand")]
    trained, test = collect(context.training(), TRAINING_EVENTS).x, held_out(context, TEST_EVENTS)
    found, n = _share_among(test, trained), len(test)
    by_chance = 0.0 if isinstance(context.toy, FiniteToy) else _share_among(test, held_out(context, len(trained), "other"))
    stderr = float(np.hypot(share_error(found, n), share_error(by_chance, n)))
    at: dict[str, Any] = {"found": found, "by_chance": by_chance}
    return [Metric(family="closure", name="reused_share", at=at, value=found - by_chance, stderr=stderr, n=n)]


def held_out(context: EvaluationContext, n: int, *labels: object) -> Tensor:
    """Test events with theta from the prior, as the errors of log_ratio have them (n, d); the test split of a finite toy."""
    toy = context.toy
    if isinstance(toy, FiniteToy):
        return toy.pool("test").x
    if not isinstance(toy, SimulatedToy):
        raise TypeError(f"{toy.spec.name} can neither be sampled nor read")
    generator = context.generator("joint", *labels)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator).x


def _share_among(test: Tensor, others: Tensor) -> float:
    """Share of rows of ``test`` (n, d) that are also rows of ``others`` (m, d), to the bit."""
    return float(np.isin(_as_bytes(test), _as_bytes(others)).mean())


def _as_bytes(x: Tensor) -> np.ndarray:
    rows = np.ascontiguousarray(x.to(torch.float32).cpu().numpy())
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
