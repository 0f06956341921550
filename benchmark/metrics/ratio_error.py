"""Error of log_ratio over (theta, x) from prior and simulator.

* ``log_ratio_rmse``, ``log_ratio_median``: root mean square and median of |learned - exact|. Tails dominate
  the RMSE; the median says how good the bulk is.
* ``log_ratio_slope``: slope of the regression of the exact on the learned log_ratio, 1 if
  E[exact | learned] = learned (calibration). Below 1 the estimator is too confident. The error allows for
  residuals of any size along the line (White 1980).

Events at which the exact ratio is infinite (supports move with theta) or negative (signed toys) are left out;
``share_finite`` is the share of the others at which the learned one is a number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import Average
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.scores import EXACT, MetricInfo
from touchneedle.benchmark.metrics.statistics import At, finite_row, missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import SimulatedToy

METRICS = (
    MetricInfo("density", "log_ratio_rmse", "root mean square error of log_ratio", "lower", EXACT),
    MetricInfo("density", "log_ratio_median", "median absolute error of log_ratio", "lower", EXACT),
    MetricInfo("density", "log_ratio_slope", "slope of the exact on the learned log_ratio", "target", EXACT),
)


def log_ratio_rows(context: EvaluationContext) -> list[Metric]:
    """The rows of one evaluation: theta comes from the prior."""
    at = At(theta="prior")
    if context.oracle is None:
        return [missing_row("density", info.name, "the toy has no exact density", at) for info in METRICS]
    learned, exact = log_ratio_pairs(context, context.config.n_test)
    inside = torch.isfinite(exact)
    learned, exact = learned[inside], exact[inside]
    at["share_finite"] = float(torch.isfinite(learned).sum()) / len(inside)
    if not bool(torch.isfinite(learned).all()):
        return [missing_row("density", info.name, "log_ratio is NaN or infinite for some events", at) for info in METRICS]
    error = (learned - exact).abs()
    median = Metric(family="density", name="log_ratio_median", at=dict(at), value=float(error.median()), n=len(error))
    median.stderr = _median_stderr(error)
    return [_rmse(error, at), median, _slope(learned, exact, at)]


def log_ratio_pairs(context: EvaluationContext, n: int) -> tuple[Tensor, Tensor]:
    """Learned and exact log_ratio on ``n`` test events with theta from the prior, each (n,)."""
    toy, oracle = context.toy, context.oracle
    if oracle is None or not isinstance(toy, SimulatedToy):
        raise TypeError(f"{toy.spec.name} has no exact density")
    generator = context.generator("joint")
    learned, exact = [], []
    for start in range(0, n, context.batch_size):
        theta = toy.spec.parameters.sample_prior(min(context.batch_size, n - start), generator)
        x = toy.sample(theta, generator=generator).x
        with torch.no_grad():
            learned.append(context.estimator.log_ratio(x, theta).cpu())
            exact.append(oracle.log_ratio(x, theta))
    return torch.cat(learned), torch.cat(exact)


def slope_and_error(predictor: Tensor, response: Tensor) -> Average:
    """Least-squares slope of ``response`` on ``predictor``, each (n,), with White's error; NaN for a constant predictor."""
    centred = predictor - predictor.mean()
    square = (centred**2).sum()
    slope = (centred * response).sum() / square
    residual = response - response.mean() - slope * centred
    return float(slope), float((centred * residual).norm() / square)


def _rmse(error: Tensor, at: At) -> Metric:
    square = finite_row("density", "log_ratio_rmse", error**2, at, what="log_ratio")
    rmse = math.sqrt(square.value or 0.0)
    # Delta method: d sqrt(m) = dm / (2 sqrt(m)).
    stderr = (square.stderr or 0.0) / (2 * rmse) if rmse > 0 else 0.0
    return square.model_copy(update={"value": rmse, "stderr": stderr})


def _median_stderr(values: Tensor) -> float:
    """Half the distance of the order statistics one binomial standard deviation around the median."""
    half = 0.5 / math.sqrt(len(values))
    low, high = torch.quantile(values, torch.tensor([0.5 - half, 0.5 + half], dtype=values.dtype))
    return float(high - low) / 2


def _slope(learned: Tensor, exact: Tensor, at: At) -> Metric:
    slope, stderr = slope_and_error(learned, exact)
    if not math.isfinite(slope):
        return missing_row("density", "log_ratio_slope", "the learned log_ratio is the same for all events", at)
    at = at | {"target": 1.0}
    return Metric(family="density", name="log_ratio_slope", at=at, value=slope, stderr=stderr, n=len(exact), direction="target")
