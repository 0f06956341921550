"""Response to nuisances: does the ratio move by as much as the density when one nuisance goes to an anchor?

``nuisance_response`` (exact toys): slope of the regression of the learned log r(x|theta_0 with one nuisance moved) on
the exact one, over events at nominal. 1 is right, 0 ignores the nuisance, -1 has its sign wrong. ``at`` has the intercept.

``moment_response`` (any simulator): the shift of a moment by reweighting over its shift by simulation. Moments are, for each
feature, its mean, its mean square, and the mean of the ratio of simulated histograms in bins of equal mass (from every second
event; the means come from the others). Of those that move by at least 10 standard errors, the one that moves most in units of its
spread is taken. Events at the anchor are simulated with the random numbers of the events at nominal, and errors are those of
paired differences, so that common noise cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.column import Column, bin_of, equal_mass_edges, histogram, is_known
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.learned_ratio import LearnedRatio
from touchneedle.benchmark.metrics.nuisance_points import Moved, anchors
from touchneedle.benchmark.metrics.scores import EXACT, SHARED_SUPPORT, MetricInfo
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.metrics.transport import Transport
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import Events, ExactToy, Feature

METRICS = (
    MetricInfo("closure", "nuisance_response", "slope of learned on exact log_ratio, one nuisance moved", "target", EXACT),
    MetricInfo("closure", "moment_response", "shift of a moment by reweighting over that by simulation", "target", SHARED_SUPPORT),
)
NAMES = tuple(info.name for info in METRICS)
RESPONSE_EVENTS = 20_000
MAX_PAIRS = 200_000
RESOLVED = 10.0
CLIP = 5.0
MOMENT_BINS = 20
# The log_ratio of a nuisance that acts on the rate alone, or the exact answer less itself.
ROUNDING = 1e-9


def rows(context: EvaluationContext, learned: LearnedRatio) -> list[Metric]:
    """Both metrics for each of the first 20 nuisances at both anchors."""
    moved = anchors(context.toy.spec.parameters)
    if not moved:
        return [missing_row("closure", name, "the toy has no nuisance parameters") for name in NAMES]
    n = max(2, min(context.config.n_test, RESPONSE_EVENTS, MAX_PAIRS // len(moved)))
    nominal = context.toy.spec.parameters.nominal
    events = context.events_at(nominal, n, "closure", "response")
    ratios = learned.between(events.x, nominal, torch.stack([point.theta for point in moved]))
    found = []
    for point, ratio in zip(moved, ratios.unbind(-1), strict=True):
        carried = Transport(events.x, events.weight.double(), ratio)
        if carried.problem:
            found += [missing_row("closure", name, carried.problem, {**point.at, **carried.health()}) for name in NAMES]
            continue
        simulated = context.events_at(point.theta, n, "closure", "response")
        found += [_density_row(context, carried, point), _moment_row(context, carried, simulated, point)]
    return found


def _density_row(context: EvaluationContext, carried: Transport, point: Moved) -> Metric:
    name, toy, at = "nuisance_response", context.toy, {**point.at, "method": "regression"}
    if not isinstance(toy, ExactToy):
        return missing_row("closure", name, "the toy has no exact density", at)
    exact, log_ratio = toy.log_ratio(carried.x, point.theta), carried.ratio.log()
    if not bool((exact.isfinite() & log_ratio.isfinite()).all()):
        return missing_row("closure", name, "a log_ratio is not finite", at)
    if float(exact.std()) < ROUNDING:
        return missing_row("closure", name, "the nuisance does not change the shape", at)
    line = regress(exact, log_ratio, carried.own)
    at |= {"target": 1.0, "intercept": line.intercept, "intercept_stderr": line.intercept_stderr}
    return Metric(family="closure", name=name, at=at, value=line.slope, stderr=line.slope_stderr, n=len(exact), direction="target")


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x, with standard errors that allow for any spread of the residuals."""

    slope: float
    slope_stderr: float
    intercept: float
    intercept_stderr: float


def regress(x: Tensor, y: Tensor, weight: Tensor) -> Line:
    """Weighted least squares of y (n,) on x (n,); errors after White 1980."""
    share = weight.double() / weight.double().sum()
    mean_x, mean_y = share @ x, share @ y
    spread = share @ (x - mean_x).square()
    slope = (share * (x - mean_x)) @ (y - mean_y) / spread
    residual = y - mean_y - slope * (x - mean_x)
    on_slope = share * residual * (x - mean_x) / spread
    on_intercept = share * residual - mean_x * on_slope
    return Line(
        float(slope), max(float(on_slope.norm()), ROUNDING), float(mean_y - slope * mean_x), max(float(on_intercept.norm()), ROUNDING)
    )


def _moment_row(context: EvaluationContext, carried: Transport, simulated: Events, point: Moved) -> Metric:
    at: dict[str, Any] = {**point.at, "method": "moments", **carried.health()}
    shifts = [shift for column, feature in enumerate(context.toy.spec.features) for shift in _shifts(feature, column, carried, simulated)]
    clear = [shift for shift in shifts if shift.significance >= RESOLVED]
    if not clear:
        return missing_row("closure", "moment_response", f"no moment of a feature moves by {RESOLVED:g} standard errors", at)
    best = max(clear, key=lambda shift: shift.effect)
    slope, stderr = best.response
    at |= {"target": 1.0, "feature_used": best.feature, "moment": best.moment}
    return Metric(family="closure", name="moment_response", at=at, value=slope, stderr=stderr, n=len(carried.own), direction="target")


@dataclass(frozen=True)
class Shift:
    """One moment moved by simulation and by reweighting, with the influence of each event on either (n,).

    Attributes:
        effect: simulated shift in standard deviations of the moment's function.
    """

    feature: str
    moment: str
    simulated: Tensor
    learned: Tensor
    on_simulated: Tensor
    on_learned: Tensor
    effect: float

    @property
    def significance(self) -> float:
        """Size of the simulated shift in its standard errors."""
        return abs(float(self.simulated)) / max(float(self.on_simulated.norm()), ROUNDING)

    @property
    def response(self) -> tuple[float, float]:
        """Learned over simulated shift, with the standard error of the ratio."""
        ratio = self.learned / self.simulated
        return float(ratio), float(((self.on_learned - ratio * self.on_simulated) / self.simulated).norm())


def _shifts(feature: Feature, column: int, carried: Transport, simulated: Events) -> list[Shift]:
    """One for each moment of a feature: functions come from every second event, means from the others."""
    before, after = Column.of(carried.x[:, column], carried.own), Column.of(simulated.x[:, column], simulated.weight)
    functions = {**_powers(feature, before, after), "binned": _binned(feature, before, after)}
    weights = [weight[1::2] for weight in (before.weight, after.weight, carried.weight)]
    return [_shift(feature.name, moment, start[1::2], end[1::2], weights) for moment, (start, end) in functions.items()]


def _shift(feature: str, moment: str, start_at: Tensor, end_at: Tensor, weights: list[Tensor]) -> Shift:
    (start, on_start), (end, on_end) = _mean(start_at, weights[0]), _mean(end_at, weights[1])
    learned, on_learned = _mean(start_at, weights[2])
    effect = float((end - start).abs() / start_at.std().clamp_min(1e-300))
    return Shift(feature, moment, end - start, learned - start, on_end - on_start, on_learned - on_start, effect)


def _powers(feature: Feature, before: Column, after: Column) -> dict[str, tuple[Tensor, Tensor]]:
    """The feature in units of its spread, clipped at five, and its square; zero where it is missing."""
    known = before.known(feature).value
    if len(known) < 2:
        return {}
    centre, scale = known.mean(), known.std().clamp_min(1e-300)
    scaled = [((c.value - centre) / scale).clamp(-CLIP, CLIP).where(is_known(feature, c.value), 0.0) for c in (before, after)]
    return {"mean": (scaled[0], scaled[1]), "square": (scaled[0] ** 2, scaled[1] ** 2)}


def _binned(feature: Feature, before: Column, after: Column) -> tuple[Tensor, Tensor]:
    """The ratio of the histograms of every second event, less 1."""
    edges = equal_mass_edges(feature, before, MOMENT_BINS)
    bins = [bin_of(feature, column.value, edges) for column in (before, after)]
    start, end = (histogram(index[::2], c.weight[::2], len(edges) + 2) for index, c in zip(bins, (before, after), strict=True))
    function = torch.where(start > 0, end / start - 1, 0.0)
    return function[bins[0]], function[bins[1]]


def _mean(value: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean, and the influence of each event on it (n,)."""
    share = weight / weight.sum()
    mean = share @ value
    return mean, share * (value - mean)
