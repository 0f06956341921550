"""Gates: what the metric rows of one evaluation amount to, as badges with stated thresholds.

A gate judges every row that its criteria name. With d the distance of a row's value from its target, s its standard
error and T the threshold,

    fail        if one row has (d - T) / s > z_m,  z_m = 2 raised for the number m of rows (Bonferroni)
    pass        if every row has (d - T) / s < -2
    undecided   otherwise: more events or experiments would tell

Where all rows are at their thresholds or better, one of m fails by chance with probability P(z > 2) = 2.3 % at most,
whatever their correlation; without Bonferroni the probability would grow with m. A pass needs no such correction: to
pass wrongly, at least one row must truly be at its threshold or beyond, and that very row has to come out 2 s inside,
which happens with 2.3 % at most, however many others there are (intersection-union test, Berger 1982,
Technometrics 24, 295). More rows make passing harder, not easier. Shares (coverage, failed fits) are binomial and skewed
near their ends: for them "z beyond" and "z inside" the band are those of exact binomial tests at its edges.

A goodness-of-fit test has no distance, only a p-value of there being nothing to see. It enters as z = Phi^-1(1 - p),
T = 0 and s = 1, so that it fails beyond 2 like the others. It can never be 2 inside zero, and does not prove that
there is nothing to see; it passes where its corrected significance is below one (a share of 84 % if all is well), and
what it could have seen depends on its number of events.

Rows that say of themselves that they are not conclusive (heavy tails, few effective events) are not judged. Rows
without a number: a metric that does not apply (n/a everywhere) is no obstacle. Where it is n/a in some places
only, or not a finite number with an error, a gate cannot pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from scipy import special

from touchneedle.benchmark.metrics.scores import MetricInfo, Row
from touchneedle.benchmark.metrics.statistics import missing_row
from touchneedle.benchmark.records import Metric
from touchneedle.toys.base import Toy

State = Literal["pass", "fail", "undecided"]

CLEARED = 2.0
CHANCE = NormalDist().cdf(-CLEARED)
NOTHING_SEEN = NormalDist().cdf(-1.0)
SMALLEST_P = 1e-300
LARGEST_P = 1 - 1e-15


@dataclass(frozen=True)
class Criterion:
    """Rows that a gate judges, and by what.

    Attributes:
        metric: ``family/name``.
        threshold: largest distance from the target; None for p-values.
        share: the value is a share of the row's ``n``, with exact binomial tests.
        at_fit: only the parameters of interest at the toy's ``fit_events``.
    """

    metric: str
    threshold: float | None
    share: bool = False
    at_fit: bool = False


@dataclass(frozen=True)
class Gate:
    """One badge.

    Attributes:
        instead: judged where none of the criteria has a number.
    """

    name: str
    description: str
    criteria: tuple[Criterion, ...]
    instead: tuple[Criterion, ...] = ()


# Bias: the threshold of n*. Coverage: what a sigma wrong by 10 % does to it (0.6827 -> 0.632, 0.9545 -> 0.928).
# Normalisation: d ln L of a drift, as a pull on the fit, again 0.2 sigma. Integrals 0.02, mean ratio 0.01 of 1: what
# tests of some 10,000 events resolve.
GATES = (
    Gate(
        "gate_bias",
        "|bias| of every parameter of interest below 0.2 oracle sigma at fit_events, at every point",
        (Criterion("fit/bias_vs_oracle", 0.2, at_fit=True),),
        (Criterion("fit/bias", 0.2, at_fit=True),),
    ),
    Gate(
        "gate_coverage",
        "coverage of a frozen network within 0.05 (68 %) and 0.03 (95 %) of its level at fit_events, at every point",
        (Criterion("fit/coverage_68", 0.05, share=True, at_fit=True), Criterion("fit/coverage_95", 0.03, share=True, at_fit=True)),
    ),
    Gate(
        "gate_convergence",
        "share of failed fits below 0.05 at fit_events, at every point",
        (Criterion("fit/failed_fits", 0.05, share=True, at_fit=True),),
    ),
    Gate(
        "gate_closure",
        "reweighted events agree in every feature (chi2 p-values), and mean ratios are within 0.01 of 1",
        (Criterion("closure/reweighting_chi2", None), Criterion("closure/mean_ratio", 0.01)),
    ),
    Gate(
        "gate_normalisation",
        "integrals within 0.02 of 1 at nominal, anchors and joint points; their drift pulls a fit of fit_events by less than 0.2 sigma",
        (Criterion("closure/normalisation_slope", 0.2), Criterion("closure/normalisation", 0.02)),
    ),
    Gate(
        "gate_samples",
        "drawn events cannot be told from simulated ones by marginals, slices, correlations and a classifier (p-values)",
        tuple(Criterion(f"density/{name}", None) for name in ("sliced_w1", "signed_sliced_w1", "mean_ks", "c2st", "correlation_distance")),
    ),
    Gate(
        "gate_separation",
        "less than 1 % of the test events were trained on",
        (Criterion("closure/reused_share", 0.01),),
    ),
    Gate(
        "gate_calibration",
        "SBC, TARP, PIT and expected coverage agree with their exact bands (p-values)",
        tuple(Criterion(f"calibration/{name}", None) for name in ("sbc", "tarp", "pit", "expected_coverage")),
    ),
)
METRICS = tuple(MetricInfo("gates", gate.name, gate.description, "lower") for gate in GATES)


@dataclass(frozen=True)
class Judged:
    """One row against one criterion.

    Attributes:
        distance: of the value from its target; the significance of a p-value in sigma.
        beyond: how far beyond its threshold, in standard errors; NaN where there is no number to judge.
        inside: how far inside; -beyond for normal errors.
    """

    row: Metric
    distance: float
    stderr: float
    threshold: float
    beyond: float
    inside: float
    of_p_value: bool = False

    def reserve(self, rows: int) -> float:
        """How far inside the limit for a pass, in standard errors; negative prevents it, -inf without a number."""
        if math.isnan(self.beyond):
            return -math.inf
        return significance(NOTHING_SEEN / rows) - self.beyond if self.of_p_value else self.inside - CLEARED


@dataclass(frozen=True)
class Facts:
    """What gates need to know of a toy: names of its parameters of interest, and the number of events of its fits."""

    interest: tuple[str, ...]
    fit_events: int


def facts_of(toy: Toy) -> Facts:
    """The facts of a toy."""
    parameters = toy.spec.parameters
    return Facts(tuple(parameters.names[column] for column in parameters.interest), toy.fit_events)


def gate_rows(metrics: Sequence[Metric], facts: Facts) -> list[Metric]:
    """One row per gate, a pure function of metric rows.

    ``value`` is the distance that decided (z for a p-value), with its ``stderr``; ``at`` holds ``state``, ``threshold``,
    ``decided_by`` and the number of ``rows`` judged. An undecided gate whose decisive row has no number has none either.
    """
    return [_gate_row(gate, metrics, facts) for gate in GATES]


def _gate_row(gate: Gate, metrics: Sequence[Metric], facts: Facts) -> Metric:
    judged = _judge_gate(gate, metrics, facts)
    if not judged:
        return missing_row("gates", gate.name, _why_not(gate, metrics, facts))
    state, decisive = decide(judged)
    at: Row = {"state": state, "threshold": decisive.threshold, "decided_by": describe(decisive.row), "rows": len(judged)}
    if math.isnan(decisive.beyond):
        return missing_row("gates", gate.name, f"{describe(decisive.row)} has no finite number with an error", at)
    value, stderr = decisive.distance, decisive.stderr
    return Metric(family="gates", name=gate.name, at=at, value=value, stderr=stderr, n=decisive.row.n, direction="lower")


def corrected_significance(metrics: Sequence[Metric], facts: Facts) -> dict[str, float]:
    """How far the worst row of every judged metric lies beyond its threshold: z of min(1, m P(z > beyond)) for m rows of its gate.

    A gate fails where one of its metrics is above `CLEARED`. Metrics without a number are left out.
    """
    found: dict[str, float] = {}
    for gate in GATES:
        judged = _judge_gate(gate, metrics, facts)
        for one in judged:
            if not math.isnan(one.beyond):
                z = significance(len(judged) * float(special.ndtr(-one.beyond)))
                name = f"{one.row.family}/{one.row.name}"
                found[name] = max(z, found.get(name, z))
    return found


def decide(judged: Sequence[Judged]) -> tuple[State, Judged]:
    """The state, and the row behind it: the worst of a fail, else the one with the least reserve."""
    m = len(judged)
    worst = max((one for one in judged if not math.isnan(one.beyond)), key=lambda one: one.beyond, default=None)
    if worst is not None and worst.beyond > significance(CHANCE / m):
        return "fail", worst
    least = min(judged, key=lambda one: one.reserve(m))
    return ("pass" if least.reserve(m) > 0 else "undecided"), least


def significance(p_value: float) -> float:
    """z = Phi^-1(1 - p), between -8 and 37 sigma, where double precision ends; NaN for NaN."""
    return math.nan if math.isnan(p_value) else -NormalDist().inv_cdf(min(LARGEST_P, max(SMALLEST_P, p_value)))


def describe(row: Metric) -> str:
    """Which row it was, in one line: family/name and the place where it holds."""
    place = [f"{key}={value}" for key, value in row.place.items()]
    return " ".join([f"{row.family}/{row.name}", *place])


def _judge_gate(gate: Gate, metrics: Sequence[Metric], facts: Facts) -> list[Judged]:
    return _judge_all(gate.criteria, metrics, facts) or _judge_all(gate.instead, metrics, facts)


def _judge_all(criteria: Iterable[Criterion], metrics: Sequence[Metric], facts: Facts) -> list[Judged]:
    """All rows of the criteria that have a number somewhere."""
    judged = []
    for criterion in criteria:
        rows = [row for row in metrics if _applies(criterion, row, facts)]
        if any(row.value is not None for row in rows):
            judged += [_judge(criterion, row) for row in rows]
    return judged


def _applies(criterion: Criterion, row: Metric, facts: Facts) -> bool:
    """Whether a row is one of the criterion's; an n/a row that does not say where it holds is, one that is not conclusive is not."""
    if criterion.metric != f"{row.family}/{row.name}" or row.at.get("network", "frozen") != "frozen":
        return False
    if row.at.get("conclusive") is False:
        return False
    if not criterion.at_fit:
        return True
    return row.at.get("parameter", facts.interest[0]) in facts.interest and row.at.get("n_events", facts.fit_events) == facts.fit_events


def _judge(criterion: Criterion, row: Metric) -> Judged:
    if row.value is None:
        return Judged(row, math.nan, math.nan, criterion.threshold or 0.0, math.nan, math.nan)
    if criterion.threshold is None:
        p_value = row.at.get("p_value")
        z = math.nan if p_value is None else significance(float(p_value))
        return Judged(row, z, 1.0, 0.0, z, -z, of_p_value=True)
    target = float(row.at.get("target") or 0.0)
    distance, stderr = abs(row.value - target), math.nan if row.stderr is None else row.stderr
    if criterion.share:
        beyond, inside = _share_against(row, target - criterion.threshold, target + criterion.threshold)
    else:
        beyond = _in_errors(distance - criterion.threshold, stderr)
        inside = -beyond
    return Judged(row, distance, stderr, criterion.threshold, beyond, inside)


def _in_errors(difference: float, stderr: float) -> float:
    """A difference in standard errors; infinite where there is no noise, NaN where either is unknown."""
    if not math.isfinite(difference) or not stderr >= 0:
        return math.nan
    return difference / stderr if stderr > 0 else math.copysign(math.inf, difference)


def _share_against(row: Metric, low: float, high: float) -> tuple[float, float]:
    """Significance of a share lying beyond the band and of it lying inside, by exact binomial tests at the edges."""
    if row.value is None or not row.n or not math.isfinite(row.value):
        return math.nan, math.nan
    n, count = row.n, round(row.value * row.n)
    low, high = max(0.0, low), min(1.0, high)
    at_most_low, at_least_high = special.bdtr(count, n, low), special.bdtrc(count - 1, n, high)
    at_least_low = 0.0 if low == 0 else special.bdtrc(count - 1, n, low)
    at_most_high = 0.0 if high == 1 else special.bdtr(count, n, high)
    beyond = significance(min(float(at_most_low), float(at_least_high)))
    return beyond, min(significance(float(at_least_low)), significance(float(at_most_high)))


def _why_not(gate: Gate, metrics: Sequence[Metric], facts: Facts) -> str:
    """The reason of the first row that should have been judged."""
    for criterion in (*gate.criteria, *gate.instead):
        for row in metrics:
            if _applies(criterion, row, facts) and row.value is None:
                return str(row.at.get("reason"))
    return f"nothing to judge: no {' or '.join(criterion.metric for criterion in gate.criteria)}" + (
        f" at {facts.fit_events} events (evaluation.n_events)" if gate.criteria[0].at_fit else ""
    )
