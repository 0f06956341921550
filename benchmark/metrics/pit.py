"""Probability integral transform: where does an event fall in the estimator's own p(x|theta)?

At N pairs (theta, x) from prior and simulator, the rank of each feature of x, and of log q(x|theta) (which depends
on all of x), among L draws from the estimator. Draws are

* ``samples``: from ``sample``, where it is offered, at equal weight: tests the density itself; or
* ``reweighted``: simulated at theta_0 with weights exp log_ratio(x, theta): tests the ratio, for every estimator, in any
  number of dimensions. Where events at theta are unlike those at theta_0 it has few effective draws: n/a below a median of 5.

Ranks are exactly uniform for a right answer (`touchneedle.benchmark.metrics.ranks`). Features whose marginals are right pass
whatever the copula; log q does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.pairs import Pairs, draw_events, draw_pairs
from touchneedle.benchmark.metrics.posterior import CHUNK, N_DRAWS, effective_size
from touchneedle.benchmark.metrics.posterior_tests import MIN_EFFECTIVE
from touchneedle.benchmark.metrics.ranks import deviation_row, ecdf_rows, truth_rank
from touchneedle.benchmark.metrics.scores import Scores
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.conf.errors import InputError

NAMES = ("pit",)
DENSITY = "log_density"
MAX_CURVES = 4


def pit_scores(context: EvaluationContext) -> Scores:
    """One row per feature, and one for the density."""
    try:
        pairs = draw_pairs(context, context.config.n_posterior, 1, "test")
        ranks, effective, broken = _pit_ranks(context, pairs)
    except InputError as error:
        return Scores([missing_row("calibration", "pit", str(error))])
    at: dict[str, Any] = {"method": _method(context), "effective_draws": round(effective, 2), "broken_share": broken}
    if effective < MIN_EFFECTIVE:
        reason = (
            f"events at nominal are too unlike those elsewhere: {effective:.1f} effective draws in the median, {MIN_EFFECTIVE:g} needed"
        )
        return Scores([missing_row("calibration", "pit", reason, at)])
    scores = Scores()
    for name, values in ranks.items():
        where = {"function": DENSITY} if name == DENSITY else {"feature": name}
        scores.metrics.append(deviation_row("pit", values, {**where, **at}))
    for name in [*list(ranks)[: min(MAX_CURVES, len(ranks) - 1)], DENSITY]:
        scores.curves += ecdf_rows("pit", name, ranks[name])
    return scores


def _method(context: EvaluationContext) -> str:
    return "samples" if "sample" in context.estimator.capabilities else "reweighted"


def _pit_ranks(context: EvaluationContext, pairs: Pairs) -> tuple[dict[str, Tensor], float, float]:
    """Ranks (N,) by name, median effective number of draws, share of answers that are not a number."""
    size = max(1, CHUNK // (1 + N_DRAWS))
    parts: list[dict[str, Tensor]] = []
    effective, broken = [], []
    for start in range(0, len(pairs), size):
        theta, x = pairs.theta[start : start + size], pairs.x[start : start + size, 0]
        with torch.no_grad():
            events, log_weight, density = _draws(context, theta, x, start)
        wrong = torch.isnan(log_weight) | torch.isposinf(log_weight) | torch.isnan(density)
        log_weight = log_weight.masked_fill(wrong, -math.inf)
        functions = dict(zip((feature.name for feature in context.toy.spec.features), events.unbind(-1), strict=True)) | {DENSITY: density}
        parts.append({name: truth_rank(f, log_weight, context.generator("pit", name, start)) for name, f in functions.items()})
        effective.append(effective_size(log_weight[:, 1:]))
        broken.append(wrong.double().mean(-1))
    ranks = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return ranks, float(torch.cat(effective).quantile(0.5)), float(torch.cat(broken).mean())


def _draws(context: EvaluationContext, theta: Tensor, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Event and draws (b, 1 + L, d), their log weights and log density (b, 1 + L)."""
    estimator, generator = context.estimator, context.generator("pit", _method(context), start)
    points = theta.repeat_interleave(N_DRAWS, 0)
    if _method(context) == "samples":
        # Rounded as what simulators give is.
        drawn = estimator.sample(points, generator).float().cpu()
    else:
        drawn = draw_events(context, context.toy.spec.parameters.nominal.repeat(len(points), 1), generator)
    events = torch.cat([x[:, None].double(), drawn.reshape(len(x), N_DRAWS, -1).double()], 1)
    if _method(context) == "reweighted":
        log_ratio = _at_own_theta(estimator.log_ratio, events, theta)
        return events, log_ratio, log_ratio
    broken = torch.isnan(events).any(-1)
    log_weight = torch.zeros(events.shape[:2], dtype=torch.float64).masked_fill(broken, math.nan)
    offered = "log_prob" in estimator.capabilities
    density = _at_own_theta(estimator.log_prob if offered else estimator.relative_log_prob, events, theta)
    return events, log_weight, density


def _at_own_theta(log_density: Callable[[Tensor, Tensor], Tensor], events: Tensor, theta: Tensor) -> Tensor:
    return log_density(events.flatten(0, 1), theta.repeat_interleave(events.shape[1], 0)).reshape(events.shape[:2]).cpu()
