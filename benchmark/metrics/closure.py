"""Closure: does a learned ratio turn events of one point into events of another? Needs events, never an exact density.

``mean_ratio``: E_{p(x|a)}[r(x|b) / r(x|a)] = 1, from nominal to the theta points and back, and between the first
other two points both ways. ``effective_share``: (sum w)^2 / (n sum w^2), how many of the events carry the test.
The ratio is the one that fits use: local normalisation, where the estimator asks for it, is divided out. The
points are pulled towards nominal until they overlap (`closure_points`; ``at["pulled"]`` says how far); each row
says how well its sample carries it (`transport`), and is not ``conclusive`` on few events or heavy tails.

Each pair takes half of ``n_test`` events. Beside the two: reweighting closure per feature, normalisation at
anchors and between them, response to nuisances, interaction, circulation, separation of training and test; each is
described in its own file.
Toys that are not regular are judged where their supports provably agree.
"""

from __future__ import annotations

import torch

from touchneedle.benchmark.metrics import circulation, interaction, normalisation_rows, nuisance_response, separation
from touchneedle.benchmark.metrics.closure_curves import closure_curves
from touchneedle.benchmark.metrics.closure_points import ClosurePoint, closure_points, no_closure
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.learned_ratio import LearnedRatio
from touchneedle.benchmark.metrics.reweighting import reweighting_rows
from touchneedle.benchmark.metrics.scores import SHARED_SUPPORT, MetricInfo, Scores
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.toys.base import Events, FiniteToy

METRICS = (
    MetricInfo("closure", "mean_ratio", "E_pa[r_b/r_a] between two points: 1 for a true ratio", "target", SHARED_SUPPORT),
    MetricInfo("closure", "effective_share", "effective share of the events behind mean_ratio", "higher", SHARED_SUPPORT),
    MetricInfo("closure", "reweighting_chi2", "chi2 / dof of reweighted against simulated events, per feature", "target", SHARED_SUPPORT),
    MetricInfo("closure", "reweighting_w1", "W1 of reweighted to simulated events, per feature, in its width", "lower", SHARED_SUPPORT),
    *normalisation_rows.METRICS,
    *nuisance_response.METRICS,
    *interaction.METRICS,
    *circulation.METRICS,
    *separation.METRICS,
)
# Reweighting looks at every feature, so at three pairs only: there, back, and without nominal.
REWEIGHTED = ((0, 1), (1, 0), (1, 2))
REWEIGHTING_EVENTS = 100_000


def closure_scores(context: EvaluationContext) -> Scores:
    """All closure rows of one evaluation."""
    points = closure_points(context)
    reason = no_closure(context, points)
    if reason:
        others = [info for info in METRICS if info not in separation.METRICS]
        return Scores([*(missing_row("closure", info.name, reason) for info in others), *separation.rows(context)])
    learned = LearnedRatio(context.estimator)
    scores = Scores()
    for a in points:
        scores.add(_scores_from(context, learned, points, a))
    scores.metrics += normalisation_rows.rows(context, learned)
    scores.metrics += nuisance_response.rows(context, learned)
    scores.metrics += interaction.rows(context, learned, points)
    scores.metrics += circulation.rows(context)
    scores.metrics += separation.rows(context)
    return scores


def _targets(points: list[ClosurePoint], a: int) -> list[ClosurePoint]:
    """From nominal to all others, from the first other two to nominal and to each other, from the rest to nominal."""
    if a == 0:
        return points[1:]
    return [points[0], *(points[3 - a : 4 - a] if a in (1, 2) else [])]


def _scores_from(context: EvaluationContext, learned: LearnedRatio, points: list[ClosurePoint], a: ClosurePoint) -> Scores:
    events = context.events_at(a.theta, max(2, context.config.n_test // 2), "closure", a.index)
    targets = _targets(points, a.index)
    ratios = learned.between(events.x, a.theta, torch.stack([b.theta for b in targets]))
    scores = Scores()
    for b, ratio in zip(targets, ratios.unbind(-1), strict=True):
        carried = Transport(events.x, events.weight.double(), ratio)
        at = {"point": a.index, "to_point": b.index, "pulled": min(a.share, b.share)}
        scores.metrics += [carried.mean_row("mean_ratio", at), carried.size_row("effective_share", at)]
        if (a.index, b.index) in REWEIGHTED:
            scores.add(_reweighting(context, carried, b, at))
    return scores


def _reweighting(context: EvaluationContext, carried: Transport, b: ClosurePoint, at: dict[str, int | float]) -> Scores:
    target = context.events_at(b.theta, min(REWEIGHTING_EVENTS, max(2, context.config.n_test // 2)), "closure", "target", b.index)
    carried, target = _apart(context, carried, target)
    generator = context.generator("closure", "bootstrap", at["point"], b.index)
    features = context.toy.spec.features
    curves = closure_curves(features, carried, target) if (at["point"], b.index) == REWEIGHTED[0] else []
    return Scores(reweighting_rows(features, carried, target, at, generator), curves)


def _apart(context: EvaluationContext, carried: Transport, target: Events) -> tuple[Transport, Events]:
    """At most ``REWEIGHTING_EVENTS`` of both samples; a finite toy has one pool, so each gets one half of it."""
    if not isinstance(context.toy, FiniteToy):
        return carried[:REWEIGHTING_EVENTS], target
    order = torch.randperm(len(target), generator=context.generator("closure", "halves"))
    middle = len(order) // 2
    return carried[order[:middle][:REWEIGHTING_EVENTS]], target[order[middle:][:REWEIGHTING_EVENTS]]
