"""Fits of estimators that are linear in functions of the event: one pass over the events, then sums.

With log_ratio = t(x) . [c(theta) - c(theta_0)] (`Estimator.linear_terms`) the sum over events is

    sum_i w_i log_ratio(x_i, theta) = [sum_i w_i t(x_i)] . [c(theta) - c(theta_0)]

so that a fit of any number of events, streamed or not, costs what the coefficients cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.second_derivatives import curvature_of
from touchneedle.inference.terms import ExactTerms, Summaries
from touchneedle.toys.base import EventSource


@dataclass(frozen=True)
class LinearObjective:
    """ln L and its gradient for E data sets of which only the summed terms are known.

    Attributes:
        sums: weighted sums of t(x) over the events of each data set (E, k).
    """

    estimator: Estimator
    sums: Tensor
    data: Summaries
    terms: ExactTerms

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """ln L (e,) and gradient (e, p) of the data sets ``rows`` (e,) at theta (e, p)."""
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            events = (self.sums[rows] * self.estimator.linear_coefficients(theta)).sum(-1)
            value = self.terms(theta, self.data[rows]) + events
            (gradient,) = torch.autograd.grad(value.sum(), theta)
        return value.detach(), gradient

    def curvature(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Minus the Hessian (e, p, p) of the data sets ``rows`` (e,) at theta (e, p)."""
        theta = theta.detach().clone().requires_grad_()
        with torch.enable_grad():
            events = (self.sums[rows] * self.estimator.linear_coefficients(theta)).sum(-1)
            return curvature_of(self.terms(theta, self.data[rows]) + events, theta)


def sum_linear_terms(estimator: Estimator, source: EventSource, rows: int) -> Tensor:
    """sum_i w_i t(x_i) over a source, in batches of ``rows`` events: shape (k,)."""
    total = torch.zeros(estimator.linear_coefficients(estimator.nominal[None]).shape[1], dtype=torch.float64)
    for batch in source.batches(rows):
        # Added in place: a list of small results, each among the freed megabytes of its batch, would keep them from being reused.
        total += batch.weight.double().cpu() @ estimator.linear_terms(batch.x).cpu()
    return total
