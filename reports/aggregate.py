"""Means over training seeds, with one standard error each.

For k seeds with values v_i and within-run standard errors s_i:

    mean    m  = sum_i v_i / k
    within  w  = sqrt(sum_i s_i^2) / k              noise of the test events alone
    between b  = sd(v) / sqrt(k),  k >= 2           sd with k - 1 in the denominator
    stderr     = w for k = 1, max(w, b) for k >= 2

Every seed has its own training and its own test events, so ``b`` already contains the noise that ``w``
describes: adding both in quadrature would count it twice. The maximum guards against two or three
seeds that agree by luck. n* is averaged as log n* (geometric mean), because it spans decades; its
standard error is that of log n*, times n*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from touchneedle.benchmark.records import Metric

Censored = Literal["", "above", "below"]
AtValue = str | float | int | bool | None
LOG_AVERAGED = frozenset({"n_star"})


@dataclass(frozen=True)
class SeedValue:
    """The number of one run; ``undefined`` says that the record holds NaN, where a number was expected."""

    seed: int
    value: float | None
    stderr: float | None
    censored: Censored = ""
    undefined: bool = False


@dataclass(frozen=True)
class Cell:
    """One metric at one place (``at``), averaged over the seeds of a row.

    Attributes:
        value: mean over the seeds that have a number; None if none has (n/a, see ``reason``).
        stderr: see the module docstring; None where no run states one.
        censored: ``above``: a lower limit, because at least one seed is a lower limit (``below``: the mirror).
        all_censored: every seed is such a limit.
        mean_abs: mean of |value| over seeds: the size to expect of one training, where signs would cancel.
        null: truth-vs-truth level, mean over seeds.
        reason: why seeds are missing; what decided a gate.
        state: of a gate: ``fail`` if any seed fails, ``pass`` if all pass, else ``undecided``; empty for other rows.
    """

    family: str
    name: str
    at: dict[str, AtValue]
    value: float | None
    stderr: float | None
    seeds: tuple[SeedValue, ...]
    direction: str
    target: float | None
    n: int | None = None
    censored: Censored = ""
    all_censored: bool = False
    mean_abs: float | None = None
    null: float | None = None
    reason: str = ""
    state: str = ""

    @property
    def metric(self) -> str:
        """``family/name``."""
        return f"{self.family}/{self.name}"

    @property
    def n_seeds(self) -> int:
        """Seeds that have a number."""
        return sum(seed.value is not None for seed in self.seeds)


def identity(metric: Metric) -> tuple[str, str, str]:
    """What must be equal for two numbers to be averaged: family, name, and where it holds."""
    return metric.family, metric.name, repr(metric.place)


def average(metrics: Sequence[tuple[int, Metric]]) -> Cell:
    """The cell of one metric from its (seed, metric) pairs."""
    first = metrics[0][1]
    seeds = tuple(_seed_value(seed, metric) for seed, metric in metrics)
    present = [seed for seed in seeds if seed.value is not None]
    value, stderr = combine([(_number(s.value), s.stderr) for s in present], log=first.name in LOG_AVERAGED)
    limits: set[Censored] = {s.censored for s in present if s.censored}
    return Cell(
        family=first.family,
        name=first.name,
        at=first.place,
        value=value,
        stderr=stderr,
        seeds=seeds,
        direction=first.direction,
        target=_target(first),
        n=first.n,
        censored=limits.pop() if len(limits) == 1 else "",
        all_censored=bool(present) and all(s.censored for s in present),
        mean_abs=math.fsum(abs(_number(s.value)) for s in present) / len(present) if present else None,
        null=_mean_null([metric for _, metric in metrics]),
        reason=_reasons([metric for _, metric in metrics]),
        state=_state([metric.at["state"] for _, metric in metrics if "state" in metric.at]),
    )


def combine(pairs: Sequence[tuple[float, float | None]], *, log: bool = False) -> tuple[float | None, float | None]:
    """Mean and standard error of (value, stderr) pairs; in log if asked and all values are positive and finite."""
    if not pairs:
        return None, None
    if len(pairs) == 1 or not log or any(not 0 < value < math.inf for value, _ in pairs):
        return _combine(pairs)
    mean, error = _combine([(math.log(v), None if s is None else s / v) for v, s in pairs])
    return math.exp(mean), None if error is None else math.exp(mean) * error


def _combine(pairs: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    k = len(pairs)
    values = [value for value, _ in pairs]
    if any(math.isinf(value) for value in values):
        # +inf and -inf together have no mean; the larger failure is the honest one to show.
        return (math.inf if math.inf in values else -math.inf), None
    mean = math.fsum(values) / k
    stated = [s for _, s in pairs if s is not None and math.isfinite(s)]
    within = math.sqrt(math.fsum(s * s for s in stated)) / k if stated else None
    if k == 1:
        return mean, within
    between = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (k - 1) / k)
    return mean, max(between, within or 0.0)


def _seed_value(seed: int, metric: Metric) -> SeedValue:
    value = None if metric.value is None or math.isnan(metric.value) else metric.value
    stderr = None if metric.stderr is None or math.isnan(metric.stderr) else metric.stderr
    return SeedValue(seed, value, stderr, _censored(metric.at.get("censored")), metric.value is not None and value is None)


def _censored(mark: AtValue) -> Censored:
    if mark in ("below", "lower"):
        return "below"
    return "above" if mark in ("above", "upper", True) else ""


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _target(metric: Metric) -> float | None:
    target = metric.at.get("target")
    return float(target) if isinstance(target, int | float) else None


def _mean_null(metrics: Sequence[Metric]) -> float | None:
    values = [metric.null.value for metric in metrics if metric.null is not None]
    return math.fsum(values) / len(values) if values else None


def _state(states: Sequence[AtValue]) -> str:
    if not states:
        return ""
    if "fail" in states:
        return "fail"
    return "pass" if set(states) == {"pass"} else "undecided"


def _reasons(metrics: Sequence[Metric]) -> str:
    found = []
    for metric in metrics:
        if metric.at.get("decided_by"):
            found.append(f"{metric.at.get('state')} by {metric.at['decided_by']}")
        elif metric.value is None:
            found.append(str(metric.at.get("reason") or "no reason given"))
        elif math.isnan(metric.value):
            found.append("not a number")
        elif metric.at.get("reason"):
            found.append(str(metric.at["reason"]))
    return "; ".join(sorted(set(found)))
