"""The worst case over theta points and parameters of interest, with the multiplicity that it takes to find one.

Among G comparisons the largest is large by chance. So beside the worst value stands the probability that the largest
of G would be as significant if there were nothing to see, from the smallest single p-value p:

* ``worst_bias``: largest |bias| (to the oracle, or to the truth without one); p of Student's t, corrected to
  1 - (1 - p)^G. Sidak (1967, J. Am. Stat. Assoc. 62, 626) shows that this bounds the error at any correlation of
  normal estimates, and it is exact for independent ones.
* ``worst_coverage``: coverage of the smallest exact binomial p, corrected to min(1, G p) (Bonferroni: the test is
  discrete, and parameters share their experiments), with a Clopper-Pearson (1934, Biometrika 26, 404) interval that
  holds for all G at once with 95.45 %.

The value itself is not corrected: the largest of G noisy numbers lies above the largest true one, on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special, stats

from touchneedle.benchmark.metrics.averages import missing_fit, share_and_error, target_row, value_row
from touchneedle.benchmark.metrics.fit_cells import LEVELS, Outcome
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Metric

CONFIDENCE = math.erf(2 / math.sqrt(2))


def worst_rows(outcomes: Sequence[Outcome], points: int) -> list[Metric]:
    """``worst_bias`` and ``worst_coverage`` over the outcomes of one number of events; so many theta points were asked for."""
    at: Row = {"n_events": outcomes[0].n_events, "missing_points": points - len(outcomes)}
    return [_worst_bias(outcomes, at)] + [_worst_coverage(outcomes, name, at) for name in LEVELS]


def _worst_bias(outcomes: Sequence[Outcome], at: Row) -> Metric:
    at = {**at, "unit": outcomes[0].unit}
    found = [
        (abs(value), error, outcome.pairs, {"worst_point": outcome.point, "worst_parameter": name})
        for outcome in outcomes
        for name, (value, error) in zip(outcome.parameters, outcome.bias, strict=True)
        if math.isfinite(value)
    ]
    if not found:
        return missing_fit("worst_bias", "too few valid fits to average", **at)
    value, error, n, where = max(found, key=lambda one: one[0])
    p_value = sidak(min(mean_p_value(value, error, n) for value, error, n, _ in found), len(found))
    return value_row("worst_bias", (value, error), n, "lower", {**at, **where, "comparisons": len(found), "p_value": p_value})


def _worst_coverage(outcomes: Sequence[Outcome], name: str, at: Row) -> Metric:
    level = LEVELS[name][0]
    at = {**at, "level": round(level, 4)}
    found = [
        (stats.binomtest(int(covered.sum()), len(covered), level), covered, {"worst_point": outcome.point, "worst_parameter": parameter})
        for outcome in outcomes
        for parameter, covered in zip(outcome.parameters, outcome.covered[name].unbind(-1), strict=True)
        if len(covered)
    ]
    if not found:
        return missing_fit("worst_coverage", "no valid fits", **at)
    test, covered, where = min(found, key=lambda one: one[0].pvalue)
    interval = test.proportion_ci(1 - (1 - CONFIDENCE) / len(found), method="exact")
    about: Row = {"comparisons": len(found), "p_value": min(1.0, len(found) * test.pvalue), "low": interval.low, "high": interval.high}
    return target_row("worst_coverage", share_and_error(covered), len(covered), round(level, 4), {**at, **where, **about})


def mean_p_value(value: float, error: float, n: int) -> float:
    """Two-sided p-value of a mean of n values being zero, by Student's t; a mean without spread is zero or it is not."""
    if not error > 0:
        return float(value == 0)
    return float(2 * special.stdtr(n - 1, -abs(value) / error))


def sidak(p_value: float, comparisons: int) -> float:
    """Probability that the smallest of so many p-values is as small: 1 - (1 - p)^G, accurate for small p."""
    return 1.0 if p_value >= 1 else -math.expm1(comparisons * math.log1p(-p_value))
