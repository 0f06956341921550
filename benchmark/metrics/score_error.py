"""Error of the score grad_theta log q relative to the Fisher information, per parameter.

    score_error_k = E_p[(s_q,k - s_p,k)^2] / E_p[s_p,k^2]

at each theta point: the share of the information about a parameter that is noise. Every estimator has a score
through its log_ratio. The first-order bias that it implies, I^-1 E_p[s_q], is ``mean_score`` of the fit family.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import Average
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.scores import EXACT, MetricInfo
from touchneedle.benchmark.metrics.statistics import At, missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import ExactToy

METRICS = (MetricInfo("density", "score_error", "mean square error of the score over the Fisher information", "lower", EXACT),)
SCORE_EVENTS = 20_000
# A gradient keeps every intermediate result of a network.
GRADIENT_EVENTS = 4_096


def score_rows(context: EvaluationContext, index: int) -> list[Metric]:
    """``score_error`` of every parameter at theta point ``index``."""
    toy = context.toy
    if not isinstance(toy, ExactToy):
        return [missing_row("density", "score_error", "the toy has no exact density", At(point=index))]
    try:
        learned, exact, weight = _scores(context, toy, index)
    except RuntimeError as error:
        # What autograd raises for a log_ratio without theta in it, or with a step that has no derivative.
        reason = f"log_ratio has no gradient in theta: {str(error).splitlines()[0]}"
        return [missing_row("density", "score_error", reason, At(point=index))]
    names = toy.spec.parameters.names
    return [_row(learned[:, k], exact[:, k], weight, At(point=index, parameter=name)) for k, name in enumerate(names)]


def relative_square_error(learned: Tensor, exact: Tensor, weight: Tensor) -> Average:
    """sum w (a - b)^2 / sum w b^2 for learned a and exact b, each (n,), with the error of a ratio of means."""
    square, information = (learned - exact) ** 2, exact**2
    total = weight @ information
    value = weight @ square / total
    return float(value), float((weight * (square - value * information)).norm() / total)


def _scores(context: EvaluationContext, toy: ExactToy, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Learned and exact score (n, p) of test events at one theta point, and their weights (n,)."""
    theta, n = context.points[index], min(SCORE_EVENTS, context.config.n_test)
    batches = [
        (_learned_score(context.estimator, events.x, theta), toy.score(events.x, theta), events.weight.double())
        for batch in context.batches_at(theta, n, "score", index)
        for events in batch.batches(GRADIENT_EVENTS)
    ]
    learned, exact, weight = zip(*batches, strict=True)
    return torch.cat(learned), torch.cat(exact), torch.cat(weight)


def _learned_score(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """Score (n, p), NaN where log_ratio is not finite: autograd gives zero for a constant NaN."""
    with torch.no_grad():
        answered = torch.isfinite(estimator.log_ratio(x, theta))
    return estimator.score(x, theta).detach().where(answered[:, None], math.nan).cpu()


def _row(learned: Tensor, exact: Tensor, weight: Tensor, at: At) -> Metric:
    inside = torch.isfinite(exact)
    share = float((inside & torch.isfinite(learned)).double().mean())
    if share < 1:
        at["share_finite"] = share
    if not bool(torch.isfinite(learned[inside]).all()):
        return missing_row("density", "score_error", "the score is NaN or infinite for some events", at)
    if not bool((exact[inside] != 0).any()):
        return missing_row("density", "score_error", "the events hold no information on this parameter here", at)
    value, stderr = relative_square_error(learned[inside], exact[inside], weight[inside])
    return Metric(family="density", name="score_error", at=at, value=value, stderr=stderr, n=int(inside.sum()))
