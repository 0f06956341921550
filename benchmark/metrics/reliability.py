"""Is the learned ratio a calibrated classifier? Events of theta (label 1) against events of theta_0 (label 0).

With equal numbers of both, sigmoid(log_ratio) is the probability of label 1 if log_ratio is right, which needs no exact density.

* ``ece``: sum_b share_b |mean label - mean probability| over 15 bins of equal mass in log_ratio, less its mean for a
  calibrated classifier with these probabilities, sqrt(2 / pi) sum_b share_b s_b, s_b^2 = sum w^2 p (1 - p) / (sum w)^2. A calibrated
  one has 0 with the standard deviation in ``null``, so ``at["z"]`` is of order one.
* ``calibration_slope``, ``calibration_intercept``: logistic regression of the labels on log_ratio (Platt 1999), targets 1 and 0,
  sandwich errors within the classes; two numbers where ``ece`` has fifteen bins, hence the more powerful. A slope below 1 is overconfident.

The ratio is the one that fits use: local normalisation is divided out. Events that a ratio of +-infinity puts on the right
side say nothing of the slope; one on the wrong side makes it n/a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext, theta_points
from touchneedle.benchmark.metrics.curves import curve_row
from touchneedle.benchmark.metrics.learned_ratio import normalised_log_ratio
from touchneedle.benchmark.metrics.scores import Row, Scores
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.records import Metric, Null
from touchneedle.toys.base import FiniteToy

NAMES = ("ece", "calibration_slope", "calibration_intercept")
N_BINS = 15
NEWTON_STEPS = 30
# Events per class: at most, since these give the slope an error of a percent; at least, for fifteen bins to mean anything.
MAX_EVENTS = 50_000
MIN_EVENTS = 2 * N_BINS


@dataclass(frozen=True)
class Labelled:
    """Log ratios (n,), labels 1 (theta) or 0 (theta_0) and weights of equal sum per class, n in total."""

    log_ratio: Tensor
    label: Tensor
    weight: Tensor


def reliability_scores(context: EvaluationContext) -> Scores:
    """Calibration of the ratio at every theta point but nominal, at least one."""
    scores = Scores()
    points = theta_points(context.toy, max(2, context.config.n_points))
    for index in range(1, len(points)):
        scores.add(_point_scores(context, points, index))
    return scores


def _point_scores(context: EvaluationContext, points: Tensor, index: int) -> Scores:
    at: dict[str, Any] = {"point": index, "to_point": 0}
    n = min(context.config.n_test, MAX_EVENTS)
    events = [context.events_at(points[k], n, "reliability", index, k) for k in (0, index)]
    if isinstance(context.toy, FiniteToy):
        # The same pool at both points: no event may stand in both classes.
        halves = torch.randperm(len(events[0]), generator=context.generator("reliability halves")).chunk(2)
        events = [part[half] for part, half in zip(events, halves, strict=True)]
    weights = [part.weight.double() for part in events]
    wrong = ""
    if any(bool((weight < 0).any()) for weight in weights):
        wrong = "events of negative weight are no sample of a class"
    elif min(int((weight > 0).sum()) for weight in weights) < MIN_EVENTS:
        wrong = f"fewer than {MIN_EVENTS} events in a class"
    if wrong:
        return Scores([missing_row("calibration", name, wrong, at) for name in NAMES])
    with torch.no_grad():
        log_ratio = torch.cat([normalised_log_ratio(context.estimator, part.x, points[index][None])[:, 0] for part in events]).cpu()
    size = len(log_ratio) / 2
    label = torch.cat([torch.full_like(weight, k) for k, weight in enumerate(weights)])
    weight = torch.cat([weight * size / weight.sum() for weight in weights])
    kept = weight > 0
    return labelled_scores(Labelled(log_ratio[kept], label[kept], weight[kept]), at)


def labelled_scores(sample: Labelled, at: dict[str, Any]) -> Scores:
    """Rows and reliability curve of one labelled sample."""
    rows = labelled_rows(sample, at)
    return Scores(rows, [] if rows[0].value is None else _reliability_curve(_bins(sample), at))


def labelled_rows(sample: Labelled, at: dict[str, Any]) -> list[Metric]:
    """The rows alone, in the order of their names above."""
    nan_share = float(torch.isnan(sample.log_ratio).double().mean())
    if nan_share > 0:
        reason = f"log_ratio is not a number for {nan_share:.2%} of the events"
        return [missing_row("calibration", name, reason, at) for name in NAMES]
    return [_ece_row(_bins(sample), len(sample.label), at), *_slope_rows(sample, at)]


@dataclass(frozen=True)
class _Bins:
    """Per bin, each (B,): share of the weight, mean label, mean probability, error of the mean label if calibrated, median log_ratio."""

    share: Tensor
    label: Tensor
    probability: Tensor
    error: Tensor
    log_ratio: Tensor


def _bins(sample: Labelled) -> _Bins:
    # Events of equal log_ratio stay together, or a bin's edge would sort them by class: all are in the bin of their middle.
    values, group = sample.log_ratio.unique(return_inverse=True)
    share = torch.zeros(len(values), dtype=torch.float64).index_add_(0, group, sample.weight.double()) / sample.weight.sum()
    middle = share.cumsum(0) - 0.5 * share
    member = (middle * N_BINS).long().clamp(0, N_BINS - 1)[group]
    columns = [_bin(sample, (member == b).nonzero().flatten()) for b in range(N_BINS) if bool((member == b).any())]
    return _Bins(*(torch.tensor(values, dtype=torch.float64) for values in zip(*columns, strict=True)))


def _bin(sample: Labelled, index: Tensor) -> tuple[float, float, float, float, float]:
    log_ratio, weight = sample.log_ratio[index], sample.weight[index]
    probability, total = torch.sigmoid(log_ratio), weight.sum()
    error = ((weight**2 * probability * (1 - probability)).sum() / total**2).sqrt()
    label = (weight * sample.label[index]).sum() / total
    mean = (weight * probability).sum() / total
    return float(total / sample.weight.sum()), float(label), float(mean), float(error), float(log_ratio.median())


def _ece_row(bins: _Bins, n: int, at: dict[str, Any]) -> Metric:
    """A half-normal variable of scale s has mean s sqrt(2 / pi) and variance s^2 (1 - 2 / pi)."""
    raw = float((bins.share * (bins.label - bins.probability).abs()).sum())
    floor = math.sqrt(2 / math.pi) * float((bins.share * bins.error).sum())
    spread = float(((bins.share * bins.error) ** 2).sum().sqrt())
    null = Null(value=0.0, stderr=spread * math.sqrt(1 - 2 / math.pi))
    z = (raw - floor) / null.stderr if null.stderr else 0.0
    at = {**at, "floor": floor, "z": z}
    return Metric(family="calibration", name="ece", at=at, value=raw - floor, stderr=spread, n=n, direction="lower", null=null)


def _reliability_curve(bins: _Bins, at: dict[str, Any]) -> list[Row]:
    """Observed against predicted log odds in each bin, with its 68 % band from the errors of the mean label."""
    count = bins.label * (1 - bins.label) / bins.error.clamp_min(1e-300) ** 2
    # Half an event on either side keeps the log odds of a pure bin finite.
    padded = (bins.label * count + 0.5) / (count + 1)
    odds, width = torch.logit(padded), 1 / ((count + 1) * padded * (1 - padded)).sqrt()
    series = f"point {at['point']}"
    return [
        curve_row("reliability", series, float(x), float(y), float(y - w), float(y + w))
        for x, y, w in zip(bins.log_ratio, odds, width, strict=True)
        if math.isfinite(x)
    ]


def _slope_rows(sample: Labelled, at: dict[str, Any]) -> list[Metric]:
    infinite = torch.isinf(sample.log_ratio)
    at = {**at, "infinite_share": float(infinite.double().mean())}
    if bool(((sample.log_ratio > 0) != (sample.label > 0.5))[infinite].any()):
        reason = "an infinite log_ratio denies an event that was simulated"
        return [missing_row("calibration", name, reason, at) for name in NAMES[1:]]
    kept = ~infinite
    fitted = logistic_fit(sample.log_ratio[kept], sample.label[kept], sample.weight[kept])
    if fitted is None:
        return [
            missing_row("calibration", name, "the logistic fit has no unique finite maximum: constant log_ratio or separated classes", at)
            for name in NAMES[1:]
        ]
    (intercept, slope), errors = fitted
    n = int(kept.sum())
    return [
        _target("calibration_slope", slope, errors[1], 1.0, n, at),
        _target("calibration_intercept", intercept, errors[0], 0.0, n, at),
    ]


def _target(name: str, value: float, stderr: float, target: float, n: int, at: dict[str, Any]) -> Metric:
    at = {**at, "target": target, "z": (value - target) / stderr}
    return Metric(family="calibration", name=name, at=at, value=value, stderr=stderr, n=n, direction="target")


def logistic_fit(value: Tensor, label: Tensor, weight: Tensor) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Intercept and slope of P(label = 1) = sigmoid(a + b value), and their sandwich errors; None if there is no maximum."""
    design = torch.stack([torch.ones_like(value), value], -1)
    coefficients = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        probability = torch.sigmoid(design @ coefficients)
        gradient = design.T @ (weight * (label - probability))
        information = design.T @ (design * (weight * probability * (1 - probability))[:, None])
        if not bool(torch.isfinite(information).all()) or float(torch.linalg.det(information)) <= 1e-12 * float(information[0, 0]) ** 2:
            return None
        step = torch.linalg.solve(information, gradient)
        coefficients = coefficients + step.clamp(-1, 1)
        if float(step.abs().max()) < 1e-10:
            break
    else:
        return None
    residual = design * (label - torch.sigmoid(design @ coefficients))[:, None]
    for k in (0.0, 1.0):
        # The sums of weights of the classes are fixed: only what differs from the mean of its class fluctuates.
        own = label == k
        residual[own] -= (weight[own, None] * residual[own]).sum(0) / weight[own].sum()
    residual = residual * weight[:, None]
    inverse = torch.linalg.inv(information)
    errors = (inverse @ (residual.T @ residual) @ inverse).diagonal().sqrt()
    return (float(coefficients[0]), float(coefficients[1])), (float(errors[0]), float(errors[1]))
