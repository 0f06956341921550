"""Evaluation: all metric families of one trained estimator, as rows, curves and pseudo-experiments."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.metrics.closure import closure_metrics
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.curves import curve_rows
from touchneedle.benchmark.metrics.density import density_metrics
from touchneedle.benchmark.metrics.fit import fit_metrics
from touchneedle.benchmark.records import Direction, Metric
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import Toy

TIMING_REPEATS = 5


@dataclass(frozen=True)
class MetricInfo:
    """One metric as ``touchneedle list metrics`` shows it."""

    family: str
    name: str
    description: str
    direction: Direction
    needs: str = ""


_EXACT = "exact density"
_REGULAR = "regular toy"
_BOTH = "exact density, regular toy"

METRICS = (
    MetricInfo("density", "kl", "KL(p||q) in nats: mean of log p - log q", "lower", "log_prob, exact density"),
    MetricInfo("density", "kl_positive", "KL(p||q) in nats, low variance, blind to leaks", "lower", "log_prob, exact density"),
    MetricInfo("density", "log_ratio_rmse", "root mean square error of log_ratio", "lower", _EXACT),
    MetricInfo("density", "log_ratio_median", "median absolute error of log_ratio", "lower", _EXACT),
    MetricInfo("closure", "mean_ratio", "E_pa[r_b/r_a] between two points: 1 for a true ratio", "target", _REGULAR),
    MetricInfo("closure", "effective_share", "effective share of the events behind mean_ratio", "higher", _REGULAR),
    MetricInfo("fit", "n_star", "events at which the bias reaches 0.2 oracle sigma (primary)", "higher", _BOTH),
    MetricInfo("fit", "bias_vs_oracle", "mean difference to the oracle's fit of the same data, in oracle sigma", "target", _BOTH),
    MetricInfo("fit", "bias", "mean of best fit - truth, in oracle sigma", "target", _REGULAR),
    MetricInfo("fit", "pull_mean", "mean of (best fit - truth) / own sigma", "target", _REGULAR),
    MetricInfo("fit", "pull_width", "standard deviation of the pull", "target", _REGULAR),
    MetricInfo("fit", "width_vs_oracle", "own interval width over the oracle's", "target", _BOTH),
    MetricInfo("fit", "coverage_68", "coverage of the 68.27 % profile-likelihood interval", "target", _REGULAR),
    MetricInfo("fit", "coverage_95", "coverage of the 95.45 % profile-likelihood interval", "target", _REGULAR),
    MetricInfo("fit", "mean_score", "first-order bias I^-1 E[grad log_ratio], in oracle sigma", "target", _BOTH),
    MetricInfo("fit", "surface_error", "rms of the fast fits against exact ones, in sigma", "lower", _REGULAR),
    MetricInfo("fit", "outside_share", "share of fits outside the fast surface, refitted exactly", "lower", _REGULAR),
    MetricInfo("fit", "failed_fits", "share of fits that did not converge", "lower", _REGULAR),
)


@dataclass
class Evaluation:
    """Metric rows, curve rows, pseudo-experiment rows, and what they cost."""

    metrics: list[Metric]
    curves: list[dict[str, Any]]
    fits: list[dict[str, Any]]
    cost: dict[str, float | int | str | None] = field(default_factory=dict)


def evaluate(toy: Toy, estimator: Estimator, config: EvaluationConfig, seed: int) -> Evaluation:
    """Score a trained estimator in float64 on test events derived from ``seed`` (the same for every estimator)."""
    start = time.perf_counter()
    context = EvaluationContext(toy, estimator.double().eval(), config, seed)
    rows = [*density_metrics(context), *closure_metrics(context)]
    fit_rows, fits = fit_metrics(context)
    timings = [row for row in fit_rows if row.family == "cost"]
    rows += [row for row in fit_rows if row.family != "cost"]
    cost: dict[str, float | int | str | None] = {}
    if timings:
        cost["fit_seconds"] = statistics.mean(row.value for row in timings if row.value is not None)
    cost |= _log_ratio_cost(context)
    evaluation = Evaluation(rows, curve_rows(context), fits, cost)
    evaluation.cost["evaluation_seconds"] = time.perf_counter() - start
    return evaluation


def _log_ratio_cost(context: EvaluationContext) -> dict[str, float | int | str | None]:
    """Microseconds per event of float64 ``log_ratio``: mean and standard error of repeats after a warm-up."""
    nominal = context.toy.spec.parameters.nominal
    x = context.events_at(nominal, 2_000, "cost").x
    seconds = []
    with torch.no_grad():
        for _ in range(TIMING_REPEATS + 1):
            start = time.perf_counter()
            context.estimator.log_ratio(x, nominal)
            seconds.append((time.perf_counter() - start) / len(x) * 1e6)
    kept = seconds[1:]
    return {
        "log_ratio_microseconds": statistics.mean(kept),
        "log_ratio_microseconds_stderr": statistics.stdev(kept) / len(kept) ** 0.5,
    }
