"""Fits of toys that are not regular: does every solution of the exact likelihood have its like, and how far off is it?

Pseudo-experiments of the toy's full statistics (at most those of the evaluation) at nominal, nuisances free. The solutions are the
oracle's maxima within 25 units of 2 ln L (five sigma) of its best, found from many starts (see `minima`), the best first.
The estimator's likelihood, locally normalised around the solution where it asks for that, is climbed from each of
them. ``solutions`` is the share of climbs that end within five sigma of the oracle's curvature there; ``solution_shift`` is
the mean of (estimator's maximum - oracle's) of those, at the first and at the second solution, for each parameter of interest, in
that sigma.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import mean_and_error, missing_fit, share_and_error, target_row, value_row
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.minima import find_maxima, prior_terms
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Metric
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.inference.batched import Problem, pseudo_objective
from touchneedle.inference.centre import prior_covariance
from touchneedle.inference.maximise import covariance_of, sigma_of
from touchneedle.inference.normalisation import RADIUS, fit_local_normalisation
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments

NAMES = ("solutions", "solution_shift")
N_EXPERIMENTS = 6
WINDOW = 25.0
RANKS = 2
NEAR = 5.0


def solution_rows(context: EvaluationContext) -> list[Metric]:
    """Both metrics, or why there are none."""
    reason = _unfit(context)
    if reason:
        return [missing_fit(name, reason) for name in NAMES]
    n_events = min(context.toy.fit_events, max(context.config.n_events))
    theta = context.toy.spec.parameters.nominal
    try:
        pool = context.observed_at(theta, N_EXPERIMENTS * n_events, "solutions", 0)
        generator = context.generator("solution experiments", 0)
        experiments = draw_pseudo_experiments(pool, theta, n_events, N_EXPERIMENTS, context.toy.spec.parameters, generator)
    except InputError as error:
        return [missing_fit(name, str(error)) for name in NAMES]
    return _rows(context, experiments, {"point": 0, "n_events": n_events})


def _unfit(context: EvaluationContext) -> str:
    if not context.estimator.additive:
        return "the likelihood is not a sum over events (additive=False)"
    if context.toy.regular:
        return "the toy is regular: it has one solution"
    return "" if context.oracle is not None else "no exact likelihood to compare with"


def _rows(context: EvaluationContext, experiments: PseudoExperiments, at: Row) -> list[Metric]:
    """Rows of all solutions together, and of the first and second."""
    assert context.oracle is not None
    exact = find_maxima(context, context.oracle, experiments, WINDOW)
    found = [_shifts(context, experiments, rank, exact) for rank in range(RANKS)]
    kept = torch.cat([(shift.abs() < NEAR).all(-1) for shift in found])
    rows = [value_row("solutions", share_and_error(kept), len(kept), "higher", at, "fewer than two experiments have a curved maximum")]
    for rank, shift in enumerate(found):
        rows += _shift_rows(context, shift[(shift.abs() < NEAR).all(-1)], {**at, "solution": rank + 1})
    return rows


def _shift_rows(context: EvaluationContext, shift: Tensor, at: Row) -> list[Metric]:
    parameters = context.toy.spec.parameters
    reason = "fewer than two experiments have this solution, with a curved maximum, and find it"
    return [
        target_row("solution_shift", mean_and_error(shift[:, k]), len(shift), 0.0, {**at, "parameter": parameters.names[k]}, reason)
        for k in parameters.interest
    ]


def _shifts(context: EvaluationContext, experiments: PseudoExperiments, rank: int, exact: list[Tensor]) -> Tensor:
    """(estimator's - oracle's) maximum, in sigma, of the experiments that have this solution (e, p)."""
    assert context.oracle is not None
    rows = torch.tensor([e for e, maxima in enumerate(exact) if len(maxima) > rank], dtype=torch.int64)
    if not len(rows):
        return torch.empty(0, len(context.toy.spec.parameters), dtype=torch.float64)
    theta = torch.stack([exact[e][rank] for e in rows.tolist()])
    covariance = covariance_of(_problem(context, context.oracle, experiments, rows, None).curvature(theta))
    # An edge or a kink has no curvature, and no sigma.
    curved = covariance.isfinite().flatten(1).all(-1)
    rows, theta, covariance = rows[curved], theta[curved], covariance[curved]
    if not len(rows):
        return theta
    ball = Ball.around(theta.mean(0), covariance.mean(0), RADIUS, context.toy.spec.parameters)
    problem = _problem(context, context.estimator, experiments, rows, ball)
    maxima = problem.maximise(theta, curvature=torch.linalg.inv(covariance))
    return (maxima.theta - theta) / sigma_of(covariance)


def _problem(context: EvaluationContext, estimator: Estimator, experiments: PseudoExperiments, rows: Tensor, ball: Ball | None) -> Problem:
    """The likelihoods of some experiments, normalised within a ball if there is one."""
    terms = prior_terms(context, estimator, experiments)
    if ball is not None:
        terms = terms.normalised_by(fit_local_normalisation(estimator, ball))
    scale = prior_covariance(terms.parameters, experiments.n_events)
    return Problem(pseudo_objective(estimator, experiments[rows], terms), terms, scale)
