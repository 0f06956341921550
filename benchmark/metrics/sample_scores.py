"""Sample metrics: events drawn from the estimator against events of the toy, each beside its truth-vs-truth null.

At every theta point a reference set of ``n_sample`` true events is compared with a set of the same size from the
estimator, and ten further pairs of sets of true events with each other: their distances are the null, whose mean and
standard error stand beside the value. Sets, directions and coordinates are the same for every estimator.

z = (value - mean) / standard deviation. With ten pairs in the null, z of the truth itself follows t_9 sqrt(1.1) where the
statistic is Gaussian (AUC). Distances are skewed (0.7 to 1.2 for W1, KS and correlations of one to four features), and
Student's t would accuse the truth five times too often at a level of 0.005; their one-sided ``p_value`` is that of z for
gamma variables of skewness 1.25, by simulation.

Sets of a finite toy are disjoint parts of its pool with its weights, whose fluctuation makes the null larger than
that of the unweighted events drawn from the estimator: z is then conservative. Signed toys have
``signed_sliced_w1``; an estimator of signed ratios, which cannot be sampled, is represented by events of the nominal
point weighted with its ratio. AUC and correlations have no meaning for negative weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.coordinates import Coordinates, are_numbers, fit_coordinates
from touchneedle.benchmark.metrics.sample_distance import (
    Distance,
    Sample,
    correlation_distance,
    mean_ks,
    random_directions,
    sliced_w1,
    worst_axis_w1,
)
from touchneedle.benchmark.metrics.scores import MetricInfo
from touchneedle.benchmark.metrics.statistics import At, missing_row
from touchneedle.benchmark.metrics.two_sample_classifier import CLASSIFIER, c2st_auc
from touchneedle.benchmark.records import Metric, Null
from touchneedle.toys.base import Events, FiniteToy, SignedToy, Toy

METRICS = (
    MetricInfo("density", "sliced_w1", "mean W1 along 64 random slices; the largest along an axis", "lower", "sample"),
    MetricInfo("density", "signed_sliced_w1", "the same between signed measures", "lower", "sample or signed, signed toy"),
    MetricInfo("density", "mean_ks", "mean over features of the Kolmogorov-Smirnov statistic", "lower", "sample"),
    MetricInfo("density", "c2st", "AUC of a trained classifier between drawn and true events", "target", "sample"),
    MetricInfo("density", "correlation_distance", "Frobenius distance of the correlation matrices", "lower", "sample"),
)
N_SLICES = 64
NULL_REPEATS = 10
N_SETS = 1 + 2 * NULL_REPEATS
SKEWNESS = 1.25
N_SIMULATED = 400_000
FEWEST_ABOVE = 20
Statistic = Callable[[Sample, Sample], Distance]


@dataclass(frozen=True)
class TrueSets:
    """Sets of true events at one theta point, in coordinates fitted to the first.

    Attributes:
        pairs: those of the null.
        signed: the toy has negative weights, here or at another theta.
    """

    coordinates: Coordinates
    reference: Sample
    pairs: tuple[tuple[Sample, Sample], ...]
    signed: bool


@dataclass(frozen=True)
class _Entry:
    """One row: its statistic, where it holds, and whether it wants weights of one sign, of both, or takes either."""

    name: str
    statistic: Statistic
    at: At
    signed: bool | None = None
    target: float | None = None


def draw_events(context: EvaluationContext, index: int) -> Tensor | None:
    """``n_sample`` events of the estimator at theta point ``index`` (n, d); None if it cannot be sampled."""
    if "sample" not in context.estimator.capabilities:
        return None
    generator = context.generator("drawn", index)
    theta = context.points[index].expand(context.config.n_sample, -1)
    with torch.no_grad():
        return torch.cat([context.estimator.sample(part, generator).cpu() for part in theta.split(context.batch_size)])


def sample_rows(context: EvaluationContext, index: int, drawn: Tensor | None) -> list[Metric]:
    """All sample metrics at theta point ``index``, given events ``drawn`` from the estimator (n_sample, d)."""
    candidate = _candidate(context, index, drawn)
    if candidate is None:
        return _missing(index, "the estimator has no sample")
    share = float(are_numbers(candidate.x, context.toy.spec.features).double().mean())
    if share < 1 or not bool(torch.isfinite(candidate.weight).all()):
        return _missing(index, "the estimator's events are NaN or infinite somewhere", share_finite=share)
    events = _true_events(context, index)
    if min(map(len, events)) < 10:
        return _missing(index, f"the pool is too small for {N_SETS} sets of at least 10 events")
    true = _in_coordinates(context.toy, events)
    n = len(true.reference.x)
    candidate = Sample(true.coordinates(candidate.x[:n]), candidate.weight[:n])
    return [_row(entry, candidate, true, index) for entry in _entries(context, true.coordinates)]


def _entries(context: EvaluationContext, coordinates: Coordinates) -> list[_Entry]:
    names = coordinates.names
    directions = random_directions(N_SLICES, len(names), context.generator("slices"))

    def random(a: Sample, b: Sample) -> Distance:
        return sliced_w1(a, b, directions)

    def axis(a: Sample, b: Sample) -> Distance:
        return worst_axis_w1(a, b, names)

    slices: tuple[tuple[str, Statistic], ...] = (("random", random), ("worst_axis", axis))
    return [
        *(_Entry("sliced_w1", statistic, At(slices=kind), signed=False) for kind, statistic in slices),
        *(_Entry("signed_sliced_w1", statistic, At(slices=kind), signed=True) for kind, statistic in slices),
        _Entry("mean_ks", mean_ks, At()),
        _Entry("c2st", c2st_auc, At(classifier=CLASSIFIER), signed=False, target=0.5),
        _Entry("correlation_distance", correlation_distance, At(), signed=False),
    ]


def _row(entry: _Entry, candidate: Sample, true: TrueSets, index: int) -> Metric:
    at = At(point=index) | entry.at
    reason = _not_applicable(entry, true)
    if reason:
        return missing_row("density", entry.name, reason, at)
    found = entry.statistic(candidate, true.reference)
    null = [entry.statistic(*pair).value for pair in true.pairs]
    at = {**at, **found.at, "null_repeats": len(null), **significance(found.value, null, skewed=entry.target is None)}
    if entry.target is not None:
        at["target"] = entry.target
    return Metric(
        family="density",
        name=entry.name,
        at=at,
        value=found.value,
        stderr=found.stderr,
        n=len(candidate.x),
        direction="lower" if entry.target is None else "target",
        null=Null(value=statistics.mean(null), stderr=statistics.stdev(null) / len(null) ** 0.5),
    )


def significance(value: float, null: Sequence[float], *, skewed: bool) -> dict[str, float]:
    """``z`` and one-sided ``p_value`` of a value among those of the null; none where the null does not vary."""
    count, spread = len(null), statistics.stdev(null)
    if spread == 0:
        return {}
    z = (value - statistics.mean(null)) / spread
    return {"z": z, "p_value": skewed_p_value(z, count) if skewed else float(stats.t.sf(z / (1 + 1 / count) ** 0.5, count - 1))}


def skewed_p_value(z: float, count: int) -> float:
    """P(z' > z) for one gamma variable against the mean and standard deviation of ``count`` others."""
    simulated = _simulated_z(count)
    above = len(simulated) - int(np.searchsorted(simulated, z, side="right"))
    if above >= FEWEST_ABOVE:
        return above / len(simulated)
    # Beyond what was simulated the spread of the others decides, with the power law of Student's t.
    last = float(simulated[-FEWEST_ABOVE])
    return FEWEST_ABOVE / len(simulated) * (last / z) ** (count - 1)


@lru_cache
def _simulated_z(count: int) -> NDArray[np.float64]:
    """Sorted z of `N_SIMULATED` gamma variables (shape 4 / skewness^2), each among ``count`` others."""
    draws = np.random.default_rng(0).gamma(4 / SKEWNESS**2, size=(1 + count, N_SIMULATED))
    return np.sort((draws[0] - draws[1:].mean(0)) / draws[1:].std(0, ddof=1))


def _not_applicable(entry: _Entry, true: TrueSets) -> str:
    if entry.signed is not None and entry.signed != true.signed:
        return "the toy has negative weights" if true.signed else "the toy has no negative weights: sliced_w1 says the same"
    if entry.name == "correlation_distance" and true.reference.x.shape[1] == 1:
        return "a single feature has no correlations"
    return ""


def _candidate(context: EvaluationContext, index: int, drawn: Tensor | None) -> Sample | None:
    """The estimator's events: drawn, or for signed ratios those of the nominal point with its ratio as weight."""
    if drawn is not None:
        return Sample(drawn, torch.ones(len(drawn), dtype=torch.float64))
    if "signed" not in context.estimator.capabilities:
        return None
    events = context.events_at(context.points[0], context.config.n_sample, "reweighted", index)
    with torch.no_grad():
        ratio = context.estimator.ratio(events.x, context.points[index]).cpu()
    return Sample(events.x, events.weight.double() * ratio)


def _true_events(context: EvaluationContext, index: int) -> list[Events]:
    """The reference set and those of the null."""
    n, theta = context.config.n_sample, context.points[index]
    if not isinstance(context.toy, FiniteToy):
        return [context.events_at(theta, n, "sample", index, k) for k in range(N_SETS)]
    pool = context.events_at(theta, n)
    n = min(n, len(pool) // N_SETS)
    order = torch.randperm(len(pool), generator=context.generator("sample", index))
    return [pool[order[k * n : (k + 1) * n]] for k in range(N_SETS)]


def _in_coordinates(toy: Toy, events: list[Events]) -> TrueSets:
    coordinates = fit_coordinates(events[0].x, toy.spec.features)
    reference, *others = (Sample(coordinates(part.x), part.weight.double()) for part in events)
    signed = isinstance(toy, SignedToy) or any(sample.signed for sample in (reference, *others))
    return TrueSets(coordinates, reference, tuple(zip(others[::2], others[1::2], strict=True)), signed)


def _missing(index: int, reason: str, **more: float) -> list[Metric]:
    return [missing_row("density", info.name, reason, At(point=index) | more) for info in METRICS]
