"""How many solutions a fit has: maxima of ln L within 4 units of 2 ln L of the best (two sigma), found from many starts.

A few pseudo-experiments of 100 events (or fewer, where the evaluation has fewer) are fitted exactly from 8 starts: the best of every 16 of
128 scrambled Sobol points of the central 95 % of the prior, since ln L may be infinite at most of them. Two end points
are one maximum if 2 ln L on the straight line between them stays within 1 unit of the lower one (a barrier of less
than one sigma separates nothing), directly or through other end points. So an end on a kink or at the edge of the
support counts too, where no gradient vanishes; this needs no regular toy. ``minima`` (of -2 ln L) is the mean number
over the experiments, its target that of the oracle on the same data. An experiment whose ln L is finite at none of its
starts counts 0.

Local normalisation, where an estimator asks for it, is fitted once over the whole prior here: it is coarser than in
the fits, whose single ball of 4 sigma cannot hold two solutions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from touchneedle.benchmark.metrics.averages import missing_fit, target_row, value_row
from touchneedle.benchmark.metrics.context import EvaluationContext, theta_points
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Metric
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.batched import Problem, pseudo_objective
from touchneedle.inference.centre import prior_covariance
from touchneedle.inference.normalisation import fit_local_normalisation
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.terms import ExactTerms, fit_limits, reference_rate

N_POINTS = 2
N_EXPERIMENTS = 2
N_EVENTS = 100
N_STARTS = 8
TRIED_PER_START = 16
WINDOW = 4.0
BARRIER = 1.0
CENTRAL = 0.95
ITERATIONS = 25
PATH_POINTS = 9
PRIOR_SIGMA = 2.0


def minima_rows(context: EvaluationContext) -> list[Metric]:
    """One row per theta point: nominal and the next, since nominal may be the one place where two solutions meet."""
    if not context.estimator.additive:
        return [missing_fit("minima", "the likelihood is not a sum over events (additive=False)")]
    return [_minima_row(context, index, theta) for index, theta in enumerate(theta_points(context.toy, N_POINTS))]


def _minima_row(context: EvaluationContext, index: int, theta: Tensor) -> Metric:
    n_events = min(N_EVENTS, *context.config.n_events)
    at: Row = {"point": index, "n_events": n_events, "starts": N_STARTS}
    generator = context.generator("minima experiments", index)
    try:
        pool = context.observed_at(theta, N_EXPERIMENTS * n_events, "minima", index)
        experiments = draw_pseudo_experiments(pool, theta, n_events, N_EXPERIMENTS, context.toy.spec.parameters, generator)
    except InputError as error:
        return missing_fit("minima", str(error), **at)
    value, stderr = _mean_count(count_maxima(context, context.estimator, experiments))
    if context.oracle is None:
        return value_row("minima", (value, stderr), N_EXPERIMENTS, "lower", at)
    exact = value if type(context.estimator) is type(context.oracle) else float(count_maxima(context, context.oracle, experiments).mean())
    return target_row("minima", (value, stderr), N_EXPERIMENTS, exact, at)


def _mean_count(counts: Tensor) -> tuple[float, float]:
    """Mean and its error; at least half a count in all, so that a few equal counts are not taken for certainty."""
    return float(counts.mean()), max(float(counts.std()) / math.sqrt(len(counts)), 0.5 / len(counts))


def count_maxima(context: EvaluationContext, estimator: Estimator, experiments: PseudoExperiments) -> Tensor:
    """Number of distinct maxima of each experiment (E,), float64."""
    return torch.tensor([len(found) for found in find_maxima(context, estimator, experiments)], dtype=torch.float64)


def find_maxima(context: EvaluationContext, estimator: Estimator, experiments: PseudoExperiments, window: float = WINDOW) -> list[Tensor]:
    """Distinct maxima of each experiment, the best first, each (s, p); those within ``window`` of the best in 2 ln L."""
    terms = prior_terms(context, estimator, experiments)
    repeated = _repeat(experiments, N_STARTS)
    objective = pseudo_objective(estimator, repeated, terms)
    problem = Problem(objective, terms, prior_covariance(terms.parameters, experiments.n_events))
    starts = torch.stack([_starts(estimator, experiments, e, terms) for e in range(len(experiments))], 1)
    ends = problem.maximise(starts.flatten(0, 1), iterations=ITERATIONS)
    theta = ends.theta.reshape(starts.shape)
    value = _or_never(ends.value).reshape(N_STARTS, -1)
    return [_distinct(estimator, experiments, e, terms, theta[:, e], value[:, e], window) for e in range(len(experiments))]


def prior_terms(context: EvaluationContext, estimator: Estimator, experiments: PseudoExperiments) -> ExactTerms:
    """The exact terms of ln L, normalised over the whole prior."""
    parameters, rates = context.toy.spec.parameters, context.toy.rates
    terms = ExactTerms(parameters, rates, reference_rate(rates, experiments.theta_true), limits=fit_limits(estimator))
    middle = parameters.from_normal(torch.zeros(len(parameters), dtype=torch.float64))
    ball = Ball.around(middle, prior_covariance(parameters, 1), PRIOR_SIGMA, parameters)
    return terms.normalised_by(fit_local_normalisation(estimator, ball))


def _starts(estimator: Estimator, experiments: PseudoExperiments, e: int, terms: ExactTerms) -> Tensor:
    """The starts of one experiment (s, p), each the best of a Sobol set of its own."""
    uniform = SobolEngine(len(terms.parameters), scramble=True, seed=0).draw(N_STARTS * TRIED_PER_START, dtype=torch.float64)
    theta = terms.parameters.from_normal(torch.special.ndtri(0.5 + CENTRAL * (uniform - 0.5)))
    low, high = terms.range
    theta = torch.minimum(torch.maximum(theta, low), high)
    value = _log_likelihood(estimator, experiments, e, terms, theta).reshape(N_STARTS, -1)
    return theta.reshape(N_STARTS, TRIED_PER_START, -1)[torch.arange(N_STARTS), value.argmax(-1)]


def _repeat(experiments: PseudoExperiments, times: int) -> PseudoExperiments:
    return PseudoExperiments(
        experiments.pool,
        experiments.theta_true,
        experiments.n_events,
        experiments.counts.repeat(times),
        experiments.index.repeat(times),
        experiments.auxiliary.repeat(times, 1),
    )


def _distinct(
    estimator: Estimator, experiments: PseudoExperiments, e: int, terms: ExactTerms, theta: Tensor, value: Tensor, window: float
) -> Tensor:
    """The best of each group among the end points (s, p) of one experiment with ln L (s,), the best group first."""
    best = value.max()
    if not bool(best.isfinite()):
        return theta[:0]
    order = value.argsort(descending=True)
    order = order[2 * (best - value[order]) <= window]
    theta, value = theta[order], value[order]
    first, second = torch.triu_indices(len(theta), len(theta), offset=1)
    joined = torch.eye(len(theta), dtype=torch.bool)
    if len(first):
        step = torch.linspace(0, 1, PATH_POINTS + 2, dtype=torch.float64)[1:-1, None, None]
        path = theta[first] + step * (theta[second] - theta[first])
        lowest = _log_likelihood(estimator, experiments, e, terms, path.flatten(0, 1)).reshape(PATH_POINTS, -1).amin(0)
        same = 2 * (torch.minimum(value[first], value[second]) - lowest) <= BARRIER
        joined[first[same], second[same]] = joined[second[same], first[same]] = True
    return theta[_first_of_groups(joined)]


def _log_likelihood(estimator: Estimator, experiments: PseudoExperiments, e: int, terms: ExactTerms, theta: Tensor) -> Tensor:
    """ln L (m,) of one experiment at theta (m, p), with the constant of the fits."""
    index = experiments.index[experiments.owner == e]
    data = experiments.summaries[torch.full((len(theta),), e)]
    pairs = experiments.pool.x[index].repeat(len(theta), 1), theta.repeat_interleave(len(index), 0)
    with torch.no_grad():
        ratio = estimator.relative_log_prob(*pairs).cpu().reshape(len(theta), -1).sum(-1)
        return _or_never(ratio + terms(theta, data))


def _or_never(value: Tensor) -> Tensor:
    return torch.where(value.isnan(), -math.inf, value)


def _first_of_groups(joined: Tensor) -> Tensor:
    """Whether a point is the first of its connected group in a symmetric adjacency (s, s): shape (s,)."""
    reach = joined
    for _ in range(len(joined)):
        reach = (reach.double() @ reach.double()) > 0
    return reach.double().argmax(-1) == torch.arange(len(joined))
