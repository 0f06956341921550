"""Interaction of two parameters: I(x) = log r(x|a, b) - log r(x|a) - log r(x|b), which a factorised model sets to zero.

``interaction``: E[I_learned I_exact] / E[I_exact^2] over events at nominal (the slope of a line through the origin: a constant
belongs to the interaction, as it keeps the density normalised); 1 is right, 0 has no interaction. n/a where the exact
interaction is less than 1 % (rms) of log r(x|a, b): another error would be divided by next to nothing. ``at["rms_share"]``
is that share. Without exact truth, `normalisation_rows` and reweighting at joint points see the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.closure_points import ClosurePoint
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.learned_ratio import LearnedRatio
from touchneedle.benchmark.metrics.nuisance_points import Moved, interacting_pairs
from touchneedle.benchmark.metrics.scores import EXACT, MetricInfo
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import ExactToy

METRICS = (MetricInfo("closure", "interaction", "slope of learned on exact interaction of two parameters", "target", EXACT),)
INTERACTION_EVENTS = 10_000
RESOLVED = 0.01
# Slopes of the exact answer on itself are 1 to rounding.
ROUNDING = 1e-9


def rows(context: EvaluationContext, learned: LearnedRatio, points: list[ClosurePoint]) -> list[Metric]:
    """One row for each of a handful of pairs."""
    toy, space = context.toy, context.toy.spec.parameters
    if not isinstance(toy, ExactToy):
        return [missing_row("closure", "interaction", "the toy has no exact density")]
    triples = interacting_pairs(space, points)
    if not triples:
        return [missing_row("closure", "interaction", "the toy has no nuisance parameters")]
    events = context.events_at(space.nominal, min(INTERACTION_EVENTS, context.config.n_test), "closure", "interaction")
    theta = torch.stack([point.theta for triple in triples for point in triple])
    unique, place = theta.unique(dim=0, return_inverse=True)
    log_ratio = learned.between(events.x, space.nominal, unique).log()
    found = []
    for triple, columns in zip(triples, place.reshape(-1, 3), strict=True):
        exact = torch.stack([toy.log_ratio(events.x, point.theta) for point in triple], -1)
        found.append(_row(triple[0], log_ratio[:, columns], exact, events.weight.double()))
    return found


def _row(both: Moved, learned: Tensor, exact: Tensor, weight: Tensor) -> Metric:
    at: dict[str, Any] = {"pair": " x ".join(both.space.names[column] for column in both.columns)}
    finite = learned.isfinite().all(-1) & exact.isfinite().all(-1)
    if not bool(finite.all()):
        at["share_nonfinite"] = float((~finite).double().mean())
        return missing_row("closure", "interaction", "a log_ratio is not finite", at)
    share = weight / weight.sum()
    ours, true = (values[:, 0] - values[:, 1] - values[:, 2] for values in (learned, exact))
    square = share @ true.square()
    at["rms_share"] = float((square / (share @ exact[:, 0].square()).clamp_min(1e-300)).sqrt())
    if not at["rms_share"] >= RESOLVED:
        return missing_row("closure", "interaction", "the exact interaction is below 1 % of the log_ratio", at)
    slope = (share * ours) @ true / square
    stderr = max(float((share * true * (ours - slope * true) / square).norm()), ROUNDING)
    at["target"] = 1.0
    return Metric(family="closure", name="interaction", at=at, value=float(slope), stderr=stderr, n=len(true), direction="target")
