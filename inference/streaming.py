"""Events that are read again for every value of ln L, a batch at a time: memory stays that of one batch.

For estimators that are not linear in functions of the event. A fit reads its source some dozen times; where that
takes too long, `touchneedle.toys.base.collect` brings the events into memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.events_at import ratio_and_score
from touchneedle.inference.second_derivatives import weighted_curvature
from touchneedle.inference.terms import ExactTerms, Summaries
from touchneedle.toys.base import Events, EventSource


@dataclass(frozen=True)
class StreamedObjective:
    """ln L and its gradient for one data set, whose events are streamed."""

    estimator: Estimator
    source: EventSource
    rows: int
    data: Summaries
    terms: ExactTerms

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln L (1,) and gradient (1, p) at theta (1, p)."""
        value, gradient = self.terms.with_gradient(theta, self.data[rows])
        for batch in self.source.batches(self.rows):
            weight = batch.weight.double().cpu()
            ratio, score = ratio_and_score(self.estimator, batch.x, theta[0])
            value += weight @ ratio
            gradient += weight @ score
        return value, gradient

    def curvature(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Minus the Hessian (1, p, p) at theta (1, p)."""
        matrix = self.terms.curvature(theta, self.data[rows])
        for batch in self.source.batches(self.rows):
            point, owner = theta.expand(len(batch), -1), torch.zeros(len(batch), dtype=torch.int64)
            matrix = matrix + weighted_curvature(self.estimator, batch.x, point, batch.weight.double().cpu(), owner, 1)
        return matrix


def total_weight(source: EventSource, rows: int) -> Tensor:
    """Sum of the weights of all events, a scalar."""
    if isinstance(source, Events):
        return source.weight.double().sum().cpu()
    total = torch.zeros((), dtype=torch.float64)
    for batch in source.batches(rows):
        total += batch.weight.double().sum().cpu()
    return total
