"""Evaluation: all metric families of one trained estimator."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from touchneedle.benchmark import gates
from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.metrics import calibration, closure, density, fit
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.curves import curve_rows
from touchneedle.benchmark.metrics.responses import response_rows
from touchneedle.benchmark.metrics.scores import MetricInfo, Scores
from touchneedle.benchmark.metrics.slices import slice_rows
from touchneedle.estimators.base import Estimator
from touchneedle.estimators.trained_range import extrapolation_allowed
from touchneedle.toys.base import EventSource, Toy

TIMING_REPEATS = 5
FAMILIES: dict[str, Callable[[EvaluationContext], Scores]] = {
    "density": density.density_scores,
    "calibration": calibration.calibration_scores,
    "closure": closure.closure_scores,
    "fit": fit.fit_scores,
}
METRICS: tuple[MetricInfo, ...] = (*density.METRICS, *calibration.METRICS, *closure.METRICS, *fit.METRICS, *gates.METRICS)


def evaluate(
    toy: Toy,
    estimator: Estimator,
    config: EvaluationConfig,
    seed: int,
    retrain: Callable[[int], Estimator] | None = None,
    training: Callable[[], EventSource] | None = None,
) -> Scores:
    """Score a trained estimator in float64 on test events derived from ``seed`` (the same for every estimator).

    ``retrain`` trains the same method once more, as network k on an event set of its own (for ``config.retrain`` > 0);
    ``training`` gives the events that the estimator was trained on, to see that none is tested on.
    """
    start = time.perf_counter()
    context = EvaluationContext(toy, estimator.double().eval(), config, seed, retrain, training)
    # The scores ask at fixed points, whatever the design: what an extrapolation is worth is what they measure.
    with extrapolation_allowed():
        curves = [*curve_rows(context), *slice_rows(context), *response_rows(context)]
        scores = Scores(curves=curves, cost=_log_ratio_cost(context))
        for name in config.families:
            scores.add(FAMILIES[name](context))
    scores.metrics += gates.gate_rows(scores.metrics, gates.facts_of(toy))
    scores.cost["evaluation_seconds"] = time.perf_counter() - start
    return scores


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
