"""Response to each nuisance: the mean log_ratio of events that it makes more likely, and of those that it makes less likely.

Of 1,000 nominal events, the tenth with the largest log_ratio at the nuisance's upper anchor and the tenth with the smallest
(the exact one, where there is one) are followed over twice the range of its anchors. Curve ``response``, series
``estimator|exact, NUISANCE [UNIT], up|down``; the band of the estimator is the standard error of its mean difference to the
exact answer over these events.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.learned_ratio import normalised_log_ratio
from touchneedle.benchmark.metrics.picture_events import answers, axis, known_points, picture_events, spaced
from touchneedle.benchmark.metrics.scores import Row

MAX_NUISANCES = 4
RESPONSE_POINTS = 9
RESPONSE_EVENTS = 1_000
GROUP = 100
REACH = 2.0
FLAT = 1e-9


def response_rows(context: EvaluationContext) -> list[Row]:
    """Curves of the first four nuisances that change the shape."""
    columns = context.toy.spec.parameters.nuisance[:MAX_NUISANCES]
    x = picture_events(context, RESPONSE_EVENTS, "response") if columns else torch.empty(0)
    return [row for column in columns for row in _nuisance_rows(context, x, column)]


def _nuisance_rows(context: EvaluationContext, x: Tensor, column: int) -> list[Row]:
    space = context.toy.spec.parameters
    parameter = space.parameters[column]
    values = _values(context, column)
    theta = space.nominal.repeat(len(values), 1)
    theta[:, column] = values
    anchor = space.nominal.clone()
    anchor[column] = min(max(parameter.template_anchors), parameter.bounds[1])
    judge = normalised_log_ratio(context.oracle or context.estimator, x, anchor[None])[:, 0].cpu()
    if not bool(judge.isfinite().all()) or float(judge.max() - judge.min()) < FLAT:
        return []
    order = judge.argsort()
    rows = []
    for name, index in (("up", order[-GROUP:]), ("down", order[:GROUP])):
        found = {who: normalised_log_ratio(each, x[index], theta).cpu() for who, each in answers(context).items()}
        error = _errors(found)
        for who, log_ratio in found.items():
            middle = log_ratio.mean(0)
            band = [middle - error, middle + error] if who == "estimator" else []
            columns = [values, middle, *band]
            points = zip(*(column.tolist() for column in columns), strict=True)
            rows += known_points("response", f"{who}, {axis(parameter)}, {name}", points)
    return rows


def _values(context: EvaluationContext, column: int) -> Tensor:
    """From twice the lower to twice the upper anchor, seen from nominal, inside the bounds."""
    parameter = context.toy.spec.parameters.parameters[column]
    ends = [parameter.nominal + REACH * (f(parameter.template_anchors) - parameter.nominal) for f in (min, max)]
    low, high = (min(max(end, parameter.bounds[0]), parameter.bounds[1]) for end in ends)
    return spaced(low, high, RESPONSE_POINTS)


def _errors(found: dict[str, Tensor]) -> Tensor:
    """Standard error of the mean over events (m,), of the difference to the exact answer where there is one."""
    learned = found["estimator"]
    exact = found.get("exact")
    difference = learned if exact is None else learned - exact
    return difference.std(0) / math.sqrt(len(learned))
