"""Where closure is tested: theta points near enough to each other for a weighted sample to say something.

Reweighting over too large a distance leaves a handful of events with all the weight. So the theta points of the
evaluation are pulled straight towards nominal, halving the distance, until the distributions overlap. The overlap
is judged from simulated events alone, by the quadratic discriminant D^2 between means of the features and their
squares: for Gaussians of equal width the effective share of the weighted events is exp(-D^2). The points are
therefore the same for every estimator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.column import is_known
from touchneedle.benchmark.metrics.context import EvaluationContext, theta_points
from touchneedle.toys.base import Events, ExactToy

# At least these many points, so that a pair without nominal exists even in a quick evaluation.
N_POINTS = 3
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
MAX_FROM_NOMINAL = 1.5
MAX_FROM_OTHER = 3.0
DISCRIMINANT_EVENTS = 4_000
SUPPORT_EVENTS = 10_000
_CLIP = 5.0
_RIDGE = 1e-3


@dataclass(frozen=True)
class ClosurePoint:
    """One theta point (p,), lying at ``share`` of the way from nominal to the theta point of that index."""

    index: int
    theta: Tensor
    share: float


def closure_points(context: EvaluationContext) -> list[ClosurePoint]:
    """Nominal, then the theta points, each pulled in until it overlaps with nominal and with the first other one."""
    theta = theta_points(context.toy, max(N_POINTS, context.config.n_points))
    moments = [_Moments.of(context, theta[0])]
    points = [ClosurePoint(0, theta[0], 1.0)]
    for index in range(1, len(theta)):
        found, point = _pulled_in(context, index, theta, moments[:2])
        moments.append(found)
        points.append(point)
    return points


def no_closure(context: EvaluationContext, points: list[ClosurePoint]) -> str:
    """Why ratios between the points cannot close, whatever the estimator; empty if they can."""
    toy = context.toy
    if toy.regular:
        return ""
    if not isinstance(toy, ExactToy):
        return "the toy is not regular: supports may differ between points"
    for a in points:
        x = context.events_at(a.theta, SUPPORT_EVENTS, "closure", "support", a.index).x
        if any(bool(torch.isneginf(toy.log_prob(x, b.theta)).any()) for b in points):
            return "the toy is not regular: supports differ between points"
    return ""


def _pulled_in(context: EvaluationContext, index: int, theta: Tensor, others: list[_Moments]) -> tuple[_Moments, ClosurePoint]:
    """The first share of the way at which the point overlaps with the others; the smallest if none does."""
    limits = (MAX_FROM_NOMINAL, MAX_FROM_OTHER)[: len(others)]
    for share in SHARES[:-1]:
        here = theta[index] if share == 1 else theta[0] + share * (theta[index] - theta[0])
        found = _Moments.of(context, here)
        if all(found.distance(other) <= limit for other, limit in zip(others, limits, strict=True)):
            return found, ClosurePoint(index, here, share)
    here = theta[0] + SHARES[-1] * (theta[index] - theta[0])
    return _Moments.of(context, here), ClosurePoint(index, here, SHARES[-1])


@dataclass(frozen=True)
class _Moments:
    """Mean (k,) and covariance (k, k) of features and their squares, in units of the toy's nominal spread."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, context: EvaluationContext, theta: Tensor) -> _Moments:
        nominal = context.events_at(context.toy.spec.parameters.nominal, DISCRIMINANT_EVENTS, "closure", "overlap")
        events = context.events_at(theta, DISCRIMINANT_EVENTS, "closure", "overlap")
        values, weight = _standardised(context, nominal, events), events.weight.double() / events.weight.double().sum()
        values = torch.cat([values, values**2], -1)
        mean = weight @ values
        return cls(mean, (values - mean).T @ (weight[:, None] * (values - mean)))

    def distance(self, other: _Moments) -> float:
        """Squared Mahalanobis distance of the means."""
        shift = self.mean - other.mean
        covariance = 0.5 * (self.covariance + other.covariance) + _RIDGE * torch.eye(len(shift), dtype=shift.dtype)
        return float(shift @ torch.linalg.solve(covariance, shift))


def _standardised(context: EvaluationContext, nominal: Events, events: Events) -> Tensor:
    columns = []
    for column, feature in enumerate(context.toy.spec.features):
        reference, value = nominal.x[:, column].double(), events.x[:, column].double()
        known = is_known(feature, reference)
        reference = reference[known] if bool(known.any()) else reference.new_zeros(2)
        spread = reference.std().clamp_min(1e-12)
        scaled = ((value - reference.mean()) / spread).clamp(-_CLIP, _CLIP)
        columns.append(torch.where(is_known(feature, value), scaled, 0.0))
    return torch.stack(columns, -1)
