"""Where pseudo-experiments of one estimator are centred: its own fit of the pool.

An estimator's bias can be several sigma, so a design around the truth would miss its maxima. Its Hessian
sets the shape of the design, unless that is absurd (a rugged estimator).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator, in_float32
from touchneedle.inference.batched import Problem
from touchneedle.inference.events_at import ratio_and_score
from touchneedle.inference.likelihood import weighted_objective
from touchneedle.inference.maximise import EDM, EDM_NEAR, covariance_of
from touchneedle.inference.normalisation import RADIUS, fit_local_normalisation
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.pseudo_experiments import PseudoExperiments
from touchneedle.inference.terms import ExactTerms, Rates, fit_limits, reference_rate
from touchneedle.toys.base import Events, ParameterSpace

MAX_STEPS = 8
# In sigma, of the radius of 4 over which the correction is fitted.
NEAR = 1.0


@dataclass(frozen=True)
class Centre:
    """The estimator's own fit of the pool, the covariance there, and the exact terms normalised around it."""

    theta: Tensor
    covariance: Tensor
    terms: ExactTerms


def find_centre(
    estimator: Estimator, experiments: PseudoExperiments, rates: Rates | None, metric: Tensor | None, max_events: int
) -> Centre:
    """Fit a part of the pool weighted to n events, starting at the truth.

    With local normalisation the correction holds in a ball only, and without it a ratio may have its
    maximum far away. So the ball walks: normalise around the centre, fit, move no further than the
    ball's edge, until the fit stays inside. Unless it stays near the middle, the last step re-centres once more.
    Networks do it in float32 where that moves no fit; a centre may be 0.2 sigma off.
    """
    parameters = estimator.spec.parameters
    reference = reference_rate(rates, experiments.theta_true)
    terms = ExactTerms(parameters, rates, reference, limits=fit_limits(estimator), control=experiments.control)
    metric = score_covariance(estimator, experiments, terms, max_events) if metric is None else metric
    guess = metric if metric is not None else prior_covariance(parameters, experiments.n_events)
    estimator = _quick(estimator, experiments, guess, max_events)
    centre = Centre(experiments.theta_true, guess, terms)
    inside = False
    for _ in range(MAX_STEPS):
        ball = Ball.around(centre.theta, centre.covariance, RADIUS, parameters)
        local = fit_local_normalisation(estimator, ball)
        if local is None:
            return _pool_fit(estimator, experiments, centre, metric, max_events)
        found = _pool_fit(estimator, experiments, Centre(centre.theta, centre.covariance, terms.normalised_by(local)), metric, max_events)
        distance = float(ball.distance(found.theta[None])[0])
        if inside or distance <= NEAR:
            return found
        inside = distance <= RADIUS
        centre = found if inside else replace(found, theta=_towards(centre.theta, found.theta, RADIUS / distance), covariance=guess)
    return centre


def _towards(start: Tensor, end: Tensor, share: float) -> Tensor:
    return start + share * (end - start)


def score_covariance(estimator: Estimator, experiments: PseudoExperiments, terms: ExactTerms, max_events: int) -> Tensor | None:
    """Inverse (p, p) of n Cov[score] and the curvature of the exact terms, at the truth; None if not positive definite.

    Equals the Hessian's for a true likelihood (information equality), and ignores ripples common to all events,
    which spoil the Hessian of a rugged one.
    """
    theta = experiments.theta_true
    x = experiments.pool.x[spaced(len(experiments.pool), max_events)]
    share = experiments.pool_share[spaced(len(experiments.pool), max_events)]
    _, score = ratio_and_score(estimator, x, theta)
    information = experiments.n_events * torch.cov(score.T, aweights=share).reshape(len(theta), -1)
    curvature = terms.curvature(theta[None], experiments.pool_summary)[0]
    covariance = covariance_of(information + curvature)
    return covariance if bool(covariance.isfinite().all()) else None


def _quick(estimator: Estimator, experiments: PseudoExperiments, covariance: Tensor, max_events: int) -> Estimator:
    """The estimator in float32 if the gradient of ln L of the pool, at the truth, is the same within ``EDM_NEAR``, else as it is."""
    quick = in_float32(estimator)
    if quick is estimator:
        return estimator
    chosen = spaced(len(experiments.pool), max_events)
    share = experiments.pool_share[chosen] / experiments.pool_share[chosen].sum()
    scores = [ratio_and_score(each, experiments.pool.x[chosen], experiments.theta_true)[1] for each in (quick, estimator)]
    wrong = experiments.n_events * (share @ (scores[0] - scores[1]))
    return quick if float(0.5 * wrong @ covariance @ wrong) < EDM_NEAR else estimator


def spaced(n: int, most: int) -> Tensor:
    """At most ``most`` evenly spaced rows of n."""
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most).long()


def prior_covariance(parameters: ParameterSpace, n_events: float) -> Tensor:
    """A guess of the covariance (p, p) of a fit to n events: ten times the prior's, divided by n."""
    one = torch.ones(len(parameters), dtype=torch.float64)
    width = 0.5 * (parameters.from_normal(one) - parameters.from_normal(-one))
    return torch.diag(width**2 * min(1.0, 10 / n_events))


def whitening(covariance: Tensor, metric: Tensor | None) -> Tensor | None:
    """The covariance (p, p) itself, or ``metric`` where it is NaN or more than 4 off in sigma in any direction."""
    usable = bool(covariance.isfinite().all())
    if metric is None:
        return covariance if usable else None
    if not usable:
        return metric
    inverse = torch.linalg.inv(torch.linalg.cholesky(metric))
    ratios = torch.linalg.eigvalsh(inverse @ covariance @ inverse.T)
    return covariance if bool(((ratios > 1 / 16) & (ratios < 16)).all()) else metric


def _pool_fit(estimator: Estimator, experiments: PseudoExperiments, start: Centre, metric: Tensor | None, max_events: int) -> Centre:
    problem = pool_problem(estimator, experiments, start, max_events, EDM_NEAR)
    maxima = problem.maximise(start.theta[None])
    own = covariance_of(problem.curvature(maxima.theta))[0]
    chosen = whitening(own, metric)
    return Centre(maxima.theta[0], start.covariance if chosen is None else chosen, start.terms)


def pool_problem(
    estimator: Estimator, experiments: PseudoExperiments, centre: Centre, max_events: int | None = None, edm: float = EDM
) -> Problem:
    """ln L of the pool (or evenly spaced events of it) weighted to n events, auxiliary measurements at the truth."""
    pool, share = experiments.pool, experiments.pool_share
    if max_events is not None:
        chosen = spaced(len(pool), max_events)
        pool, share = pool[chosen], share[chosen] / share[chosen].sum()
    events = Events(x=pool.x, theta=pool.theta, weight=share * experiments.n_events)
    objective = weighted_objective(estimator, events, experiments.pool_summary, centre.terms)
    return Problem(objective, centre.terms, centre.covariance, edm=edm)
