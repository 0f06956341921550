"""Density metrics against exact truth (`datasets_and_metrics`: Monte-Carlo means of known log p and log q).

* ``kl``: mean of D = log p - log q over x ~ p; standard error sd(D)/sqrt(n).
* ``kl_positive``: mean of exp(-D) - 1 + D, never negative, of lower variance; equal to ``kl`` unless q
  leaks mass outside the support of p. Their difference is a diagnostic of tails and leaks.
* ``log_ratio_rmse``, ``log_ratio_median``: error of log_ratio over (theta, x) from prior and simulator.
  Tails dominate the RMSE; the median says how good the bulk is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.scores import EXACT, MetricInfo, Scores
from touchneedle.benchmark.metrics.statistics import mean_row, missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import ExactToy

METRICS = (
    MetricInfo("density", "kl", "KL(p||q) in nats: mean of log p - log q", "lower", "log_prob, exact density"),
    MetricInfo("density", "kl_positive", "KL(p||q) in nats, low variance, blind to leaks", "lower", "log_prob, exact density"),
    MetricInfo("density", "log_ratio_rmse", "root mean square error of log_ratio", "lower", EXACT),
    MetricInfo("density", "log_ratio_median", "median absolute error of log_ratio", "lower", EXACT),
)


def density_scores(context: EvaluationContext) -> Scores:
    """All density rows of one evaluation."""
    return Scores([*_divergences(context), *_log_ratio_errors(context)])


def log_ratio_pairs(context: EvaluationContext) -> tuple[Tensor, Tensor]:
    """Learned and exact log_ratio on test events with theta from the prior, each (n_test,)."""
    toy = context.toy
    if not isinstance(toy, ExactToy):
        raise TypeError(f"{toy.spec.name} has no exact density")
    generator = context.generator("joint")
    theta = toy.spec.parameters.sample_prior(context.config.n_test, generator)
    x = toy.sample(theta, generator=generator).x
    return context.estimator.log_ratio(x, theta).detach(), toy.log_ratio(x, theta)


def _divergences(context: EvaluationContext) -> list[Metric]:
    toy = context.toy
    reason = ""
    if not isinstance(toy, ExactToy):
        reason = "the toy has no exact density"
    elif "log_prob" not in context.estimator.capabilities:
        reason = "the estimator has no log_prob"
    if reason or not isinstance(toy, ExactToy):
        return [missing_row("density", name, reason) for name in ("kl", "kl_positive")]
    rows = []
    for index, theta in enumerate(context.points):
        x = context.events_at(theta, context.config.n_test, "density", index).x
        difference = toy.log_prob(x, theta) - context.estimator.log_prob(x, theta).detach()
        at = {"point": index}
        rows.append(mean_row("density", "kl", difference, at))
        rows.append(mean_row("density", "kl_positive", torch.expm1(-difference) + difference, at))
    return rows


def _log_ratio_errors(context: EvaluationContext) -> list[Metric]:
    if not isinstance(context.toy, ExactToy):
        return [missing_row("density", name, "the toy has no exact density") for name in ("log_ratio_rmse", "log_ratio_median")]
    learned, exact = log_ratio_pairs(context)
    # Where supports move with theta the exact ratio can be infinite; such events are counted, not scored.
    finite = torch.isfinite(exact)
    error = (learned - exact)[finite].abs()
    at: dict[str, str | float | int | bool | None] = {"theta": "prior", "share_finite": float(finite.double().mean())}
    square = mean_row("density", "log_ratio_rmse", error**2, at)
    rmse = math.sqrt(square.value or 0.0)
    # Delta method: d sqrt(m) = dm / (2 sqrt(m)).
    stderr = (square.stderr or 0.0) / (2 * rmse) if rmse > 0 else 0.0
    return [
        square.model_copy(update={"value": rmse, "stderr": stderr}),
        Metric(family="density", name="log_ratio_median", at=at, value=float(error.median()), stderr=_median_stderr(error), n=len(error)),
    ]


def _median_stderr(values: Tensor) -> float:
    """Half the distance of the order statistics one binomial standard deviation around the median."""
    half = 0.5 / math.sqrt(len(values))
    low, high = torch.quantile(values, torch.tensor([0.5 - half, 0.5 + half], dtype=values.dtype))
    return float(high - low) / 2
