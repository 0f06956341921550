"""Curves for figures: the likelihood scan of one frozen data set, and learned against exact log_ratio.

Long form: curve, series, x, y, low, high.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.learned_ratio import normalised_log_ratio
from touchneedle.benchmark.metrics.ratio_error import log_ratio_pairs
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import Events, ExactToy, FiniteToy

SCAN_POINTS = 41
SCAN_CEILING = 12.0
# A likelihood far narrower than the prior is looked for in steps.
ZOOMS = 3
RATIO_BINS = 20
RATIO_EVENTS = 20_000


def curve_rows(context: EvaluationContext) -> list[Row]:
    """All curves of one evaluation."""
    rows = _scan_rows(context)
    if isinstance(context.toy, ExactToy):
        rows += _ratio_rows(context)
    return rows


def curve_row(curve: str, series: str, x: float, y: float, low: float | None = None, high: float | None = None) -> Row:
    """One point of one curve."""
    return {"curve": curve, "series": series, "x": x, "y": y, "low": low, "high": high}


def _scan_rows(context: EvaluationContext) -> list[Row]:
    """-2 Delta ln L in the first parameter of interest, the others at nominal, of ``fit_events`` events.

    An answer that is a number nowhere has no curve.
    """
    space = context.toy.spec.parameters
    events = _scan_events(context)
    column = space.interest[0]
    reference = context.oracle or context.estimator
    low, high = space.parameters[column].prior.from_normal(torch.tensor([-2.5, 2.5], dtype=torch.float64)).tolist()
    for _ in range(ZOOMS):
        wide = torch.linspace(low, high, 4 * SCAN_POINTS, dtype=torch.float64)
        near = wide[_deviance(context, reference, events, column, wide) < SCAN_CEILING]
        if not len(near):
            return []
        if len(near) >= SCAN_POINTS / 4:
            low, high = float(near.min()), float(near.max())
            break
        step = float(wide[1] - wide[0])
        low, high = max(low, float(near.min()) - step), min(high, float(near.max()) + step)
    grid = torch.linspace(low, high, SCAN_POINTS, dtype=torch.float64)
    series = {"estimator": context.estimator} | ({"exact": context.oracle} if context.oracle is not None else {})
    return [
        curve_row("scan", name, x, y)
        for name, estimator in series.items()
        for x, y in zip(grid.tolist(), _deviance(context, estimator, events, column, grid).tolist(), strict=True)
    ]


def _scan_events(context: EvaluationContext) -> Events:
    nominal = context.toy.spec.parameters.nominal
    events = context.observed_at(nominal, context.toy.fit_events, "scan")
    if isinstance(context.toy, FiniteToy):
        return events.with_weight(events.weight * context.toy.fit_events / events.weight.sum())
    return events


def _deviance(context: EvaluationContext, estimator: Estimator, events: Events, column: int, values: Tensor) -> Tensor:
    theta = context.toy.spec.parameters.nominal.repeat(len(values), 1)
    theta[:, column] = values
    shape = events.weight.double() @ normalised_log_ratio(estimator, events.x, theta)
    total = events.weight.double().sum()
    rate = context.toy.expected_events(theta) / context.toy.expected_events(context.toy.spec.parameters.nominal[None])
    value = shape + total * (rate.log() - rate)
    # A signed ratio has no logarithm where it is negative at some event.
    known = value[value.isfinite()]
    return 2 * (known.max() - value) if len(known) else torch.full_like(value, torch.nan)


def _ratio_rows(context: EvaluationContext) -> list[Row]:
    """Median and 68 % band of learned - exact log_ratio in equal-mass bins of the exact one."""
    learned, exact = log_ratio_pairs(context, min(RATIO_EVENTS, context.config.n_test))
    finite = torch.isfinite(exact)
    learned, exact = learned[finite], exact[finite]
    levels = torch.tensor([0.16, 0.5, 0.84], dtype=torch.float64)
    rows = []
    for bin_index in exact.argsort().chunk(RATIO_BINS):
        low, middle, high = torch.quantile((learned - exact)[bin_index], levels).tolist()
        rows.append(curve_row("ratio", "estimator", float(exact[bin_index].median()), middle, low, high))
    return rows
