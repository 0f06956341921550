"""The integral of a learned density at nominal: by quadrature, against truth, or against the estimator's own samples.

* ``quadrature``: trapezoidal rule over the range of the events and as much again on either side, up to two
  continuous features; the error is the change from half as many points.
* ``truth``: E_p[q / p] over events of an exact toy. Blind to mass outside the support of p.
* ``own samples``: E_q[g / q] = 1 / integral(q), with g a mixture of Gaussians around samples of high density, each 0.7
  times as wide as the samples next to it (Gelfand, Dey 1994): a wider one reaches where q has no events, between
  its modes, and the mean misses what lies there. Sees a density that its own sampler does not normalise.
* ``ratio``: estimators without a density; 1 by definition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.statistics import mean_row, missing_row
from touchneedle.benchmark.metrics.transport import ROUNDING, Transport
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import ExactToy, Feature

GRID = {1: 20_001, 2: 601}
INTEGRAL_EVENTS = 20_000
_CHUNK = 2**16
_NARROW, _NEAR, _CENTRES = 0.7, 0.03, 128


def integral_at_nominal(context: EvaluationContext) -> list[Metric]:
    """The ``normalisation`` row at nominal."""
    at: dict[str, Any] = {"where": "nominal", "target": 1.0}
    estimator, features = context.estimator, context.toy.spec.features
    if "log_prob" not in estimator.capabilities:
        return [_ratio_at_nominal(context, at)]
    with torch.no_grad():
        if len(features) in GRID and all(feature.kind != "discrete" and feature.missing is None for feature in features):
            row = _quadrature(context)
        elif isinstance(context.toy, ExactToy):
            row = _against_truth(context, context.toy)
        elif "sample" in estimator.capabilities:
            row = _against_own_samples(context)
        else:
            row = missing_row("closure", "normalisation", "more than two features, no exact density and no sampler")
    row.at.update(at)
    return [row]


def _ratio_at_nominal(context: EvaluationContext, at: dict[str, Any]) -> Metric:
    """1 by the definition of a ratio; measured all the same."""
    nominal = context.toy.spec.parameters.nominal
    events = context.events_at(nominal, min(INTEGRAL_EVENTS, context.config.n_test), "closure", "integral")
    with torch.no_grad():
        ratio = context.estimator.log_ratio(events.x, nominal).exp().cpu()
    return Transport(events.x, events.weight.double(), ratio).mean_row("normalisation", {**at, "method": "ratio"})


def _log_prob(context: EvaluationContext, x: Tensor) -> Tensor:
    nominal = context.toy.spec.parameters.nominal
    return torch.cat([context.estimator.log_prob(part, nominal) for part in x.split(_CHUNK)]).detach().cpu()


def _quadrature(context: EvaluationContext) -> Metric:
    x = context.events_at(context.toy.spec.parameters.nominal, INTEGRAL_EVENTS, "closure", "range").x.double()
    features = context.toy.spec.features
    axes, every_second = zip(*[_axis(feature, x[:, k], GRID[len(features)]) for k, feature in enumerate(features)], strict=True)
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    density = _log_prob(context, grid).exp().reshape([len(axis) for axis in axes])
    fine, coarse = _trapezoid(density, axes), _trapezoid(density[torch.meshgrid(*every_second, indexing="ij")], _rows(axes, every_second))
    if not math.isfinite(fine):
        return missing_row("closure", "normalisation", "the density is not finite somewhere", {"method": "quadrature"})
    error = max(abs(fine - coarse), ROUNDING)
    return Metric(
        family="closure", name="normalisation", at={"method": "quadrature"}, value=fine, stderr=error, n=density.numel(), direction="target"
    )


def _axis(feature: Feature, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Points in pieces that end at the edges of the support, where a density may jump; and the index of every second one."""
    low, high = float(x.min()), float(x.max())
    ends = (2 * low - high, 2 * high - low) if feature.kind != "periodic" else feature.support or (-math.pi, math.pi)
    inner = [edge for edge in feature.support or () if ends[0] < edge < ends[1]]
    bounds, gap = [ends[0], *inner, ends[1]], 1e-9 * (ends[1] - ends[0])
    pieces = [torch.linspace(a + gap, b - gap, count, dtype=torch.float64) for a, b in itertools.pairwise(bounds)]
    every_second = torch.arange(0, count, 2)
    return torch.cat(pieces), torch.cat([every_second + k * count for k in range(len(pieces))])


def _rows(axes: Sequence[Tensor], index: Sequence[Tensor]) -> list[Tensor]:
    return [axis[rows] for axis, rows in zip(axes, index, strict=True)]


def _trapezoid(density: Tensor, axes: Sequence[Tensor]) -> float:
    for axis in reversed(axes):
        density = torch.trapezoid(density, axis, dim=-1)
    return float(density)


def _against_truth(context: EvaluationContext, toy: ExactToy) -> Metric:
    events = context.events_at(toy.spec.parameters.nominal, min(INTEGRAL_EVENTS, context.config.n_test), "closure", "integral")
    ratio = (_log_prob(context, events.x) - toy.log_prob(events.x, toy.spec.parameters.nominal)).exp()
    return Transport(events.x, events.weight.double(), ratio).mean_row("normalisation", {"method": "truth"})


def _against_own_samples(context: EvaluationContext) -> Metric:
    at = {"method": "own samples"}
    n = min(2 * INTEGRAL_EVENTS, context.config.n_test)
    nominal = context.toy.spec.parameters.nominal
    x = context.estimator.sample(nominal.expand(n, -1), context.generator("closure", "own samples")).detach().double().cpu()
    if not bool(x.isfinite().all()):
        return missing_row("closure", "normalisation", "the estimator's samples are not finite", at)
    first, second = x[: n // 2], x[n // 2 :]
    local = _local_gaussians(first, _log_prob(context, first))
    ratio = (local.log_prob(second) - _log_prob(context, second)).exp()
    inverse = mean_row("closure", "normalisation", ratio, at, direction="target")
    value = inverse.value or torch.nan
    if not 0 < value < torch.inf:
        return missing_row("closure", "normalisation", "the learned density is not finite at its own samples", at)
    # 1 / m has the relative error of m.
    return inverse.model_copy(update={"value": 1 / value, "stderr": (inverse.stderr or 0.0) / value**2})


def _local_gaussians(x: Tensor, log_q: Tensor) -> torch.distributions.MixtureSameFamily:
    """Gaussians around some of the denser half of the events x (n, d), each as wide as the events next to it."""
    centres = log_q.argsort(descending=True)[: len(x) // 2][:: max(1, len(x) // (2 * _CENTRES))]
    scaled = x / x.std(0).clamp_min(1e-300)
    near = torch.cdist(scaled[centres], scaled).topk(max(10 * x.shape[1], int(_NEAR * len(x))), largest=False).indices
    means = x[near].mean(1)
    away = x[near] - means[:, None]
    covariance = _NARROW**2 * away.mT @ away / near.shape[1]
    ridge = 1e-9 * covariance.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype)
    equal = torch.distributions.Categorical(torch.ones(len(centres), dtype=x.dtype))
    return torch.distributions.MixtureSameFamily(equal, torch.distributions.MultivariateNormal(means, covariance + ridge))
