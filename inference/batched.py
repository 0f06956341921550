"""Batched profile fits: best fit, sigma and profile likelihood at the truth for many data sets at once.

The same procedure serves the exact likelihood (BFGS, curvature by differences of gradients) and the
polynomial surface (Newton, exact curvature); only the `Problem` differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator
from touchneedle.inference.likelihood import EventObjective, check_additive
from touchneedle.inference.maximise import (
    EDM,
    Curvature,
    Maxima,
    Objective,
    Region,
    covariance_of,
    difference_curvature,
    maximise,
    sigma_of,
)
from touchneedle.inference.pseudo_experiments import PseudoExperiments
from touchneedle.inference.terms import ExactTerms

_BETTER = 1e-6
_WORSE = 1e-3
_COLUMNS = ("theta", "covariance", "value", "t_true", "conditional", "converged", "valid")


@dataclass(frozen=True)
class Problem:
    """E likelihoods to fit.

    Attributes:
        terms: the parameters, and where they may go.
        scale: covariance (p, p), or one for each (E, p, p), that sets first steps.
        newton: exact curvature where it is cheap.
        edm: distance to the maximum in ln L below which a fit has converged.
        within: theta (e, p) -> where a free fit may go (e,); one that would leave gives up, and is not profiled.
    """

    objective: Objective
    terms: ExactTerms
    scale: Tensor
    newton: Curvature | None = None
    edm: float = EDM
    within: Callable[[Tensor], Tensor] | None = None

    @property
    def region(self) -> Region:
        """The bounds, with all parameters free."""
        return self.region_without()

    def region_without(self, column: int | None = None) -> Region:
        """The bounds, with one parameter fixed."""
        low, high = self.terms.range
        free = torch.ones(len(low), dtype=torch.bool)
        if column is not None:
            free[column] = False
        return Region(low, high, free)

    def at(self, rows: Tensor) -> Problem:
        """Some of the problems (e,)."""
        newton = self.newton
        return replace(
            self,
            objective=lambda theta, chosen: self.objective(theta, rows[chosen]),
            scale=self.scale[rows] if self.scale.dim() == 3 else self.scale,
            newton=None if newton is None else lambda theta, chosen: newton(theta, rows[chosen]),
        )

    def maximise(self, start: Tensor, fixed: int | None = None, iterations: int = 60, curvature: Tensor | None = None) -> Maxima:
        """Maximise from start (E, p), with one parameter fixed and the curvature known if said."""
        curvature = torch.linalg.inv(self.scale) if curvature is None else curvature
        region = self.region_without(fixed)
        objective = self.objective if self.within is None or fixed is not None else partial(_confined, self.objective, self.within)
        return maximise(objective, start, region, curvature, newton=self.newton, iterations=iterations, edm=self.edm)

    def curvature(self, theta: Tensor) -> Tensor:
        """Minus the Hessian (E, p, p) at theta (E, p)."""
        rows = torch.arange(len(theta))
        if self.newton is not None:
            return self.newton(theta, rows)
        return difference_curvature(self.objective, theta, rows, sigma_of(self.scale), self.region)


@dataclass(frozen=True)
class ProfileFits:
    """Fits of E data sets.

    Attributes:
        theta: best fits (E, p).
        covariance: inverse of minus the Hessian (E, p, p); NaN where it is not positive definite.
        value: ln L at the best fit (E,).
        t_true: 2 [ln L(best) - max ln L(parameter of interest = truth)] (E, n_interest).
        conditional: the maxima with one parameter of interest fixed at the truth (E, n_interest, p).
        converged: all fits did (E,).
        valid: they did, with a finite sigma (E,).
    """

    theta: Tensor
    covariance: Tensor
    value: Tensor
    t_true: Tensor
    conditional: Tensor
    converged: Tensor
    valid: Tensor

    @property
    def sigma(self) -> Tensor:
        """Standard errors (E, p)."""
        return sigma_of(self.covariance)


def first(fits: ProfileFits, count: int) -> ProfileFits:
    """The first ``count`` fits."""
    return ProfileFits(**{name: getattr(fits, name)[:count] for name in _COLUMNS})


def merge(fits: ProfileFits, better: ProfileFits, rows: Tensor) -> ProfileFits:
    """The same fits with some rows replaced."""
    columns = {name: getattr(fits, name).clone() for name in _COLUMNS}
    for name, column in columns.items():
        column[rows] = getattr(better, name)
    return ProfileFits(**columns)


def profile_fits(problem: Problem, starts: Tensor, theta_true: Tensor) -> ProfileFits:
    """Fit from starts (s, E, p), best kept, and profile at theta_true (p,).

    A constrained fit that comes out above the best fit shows that the latter was a local maximum; such a fit
    is then repeated from there, and one that did not converge from where it ended.
    """
    best = _best_of([problem.maximise(start) for start in starts])
    found = best.converged.nonzero().flatten()
    if problem.within is None or len(found) == len(best.theta):
        return _profile(problem, best, theta_true)
    given_up = _unprofiled(best, len(problem.terms.parameters.interest))
    return merge(given_up, _profile(problem.at(found), best.at(found), theta_true), found) if len(found) else given_up


def _profile(problem: Problem, best: Maxima, theta_true: Tensor) -> ProfileFits:
    fits = _profiled(problem, best, theta_true)
    again = ((fits.t_true < -_BETTER).any(-1) | ~fits.converged).nonzero().flatten()
    if len(again):
        some = problem.at(again)
        better = _best_of([best.at(again), some.maximise(_highest(fits)[again])])
        fits = merge(fits, _profiled(some, better, theta_true), again)
    best_kept = (fits.t_true > -_WORSE).all(-1)
    t_true, converged, valid = fits.t_true.clamp_min(0), fits.converged & best_kept, fits.valid & best_kept
    return ProfileFits(fits.theta, fits.covariance, fits.value, t_true, fits.conditional, converged, valid)


def _unprofiled(best: Maxima, n_interest: int) -> ProfileFits:
    """Fits that failed: NaN for all that was not looked for."""
    nan, failed = best.theta.new_full((), torch.nan), torch.zeros_like(best.converged)
    e, p = best.theta.shape
    return ProfileFits(
        best.theta, nan.expand(e, p, p), best.value, nan.expand(e, n_interest), nan.expand(e, n_interest, p), failed, failed
    )  # fmt: skip


def exact_fits(
    estimator: Estimator,
    experiments: PseudoExperiments,
    terms: ExactTerms,
    rows: Tensor,
    starts: Tensor,
    scale: Tensor,
    edm: float = EDM,
    tested: Tensor | None = None,
    within: Callable[[Tensor], Tensor] | None = None,
) -> ProfileFits:
    """Fit the chosen pseudo-experiments (e,) by the estimator itself, in float64, from starts (s, e, p).

    ``scale`` is a covariance that sets first steps, (p, p) or one for each (e, p, p); profiled at ``tested`` (p,), the
    truth by default. Free fits stay ``within``, see `Problem`.
    """
    chosen = Problem(pseudo_objective(estimator, experiments[rows], terms), terms, scale, edm=edm, within=within)
    return profile_fits(chosen, starts, experiments.theta_true if tested is None else tested)


def pseudo_objective(estimator: Estimator, experiments: PseudoExperiments, terms: ExactTerms) -> EventObjective:
    """ln L of all pseudo-experiments."""
    check_additive(estimator)
    weight = torch.ones(len(experiments.index), dtype=torch.float64)
    return EventObjective(estimator, experiments.pool.x, experiments.index, experiments.owner, weight, experiments.summaries, terms)


def _confined(objective: Objective, within: Callable[[Tensor], Tensor], theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The objective, minus infinity outside."""
    value, gradient = theta.new_full((len(theta),), -torch.inf), torch.zeros_like(theta)
    inside = within(theta).nonzero().flatten()
    if len(inside):
        value[inside], gradient[inside] = objective(theta[inside], rows[inside])
    return value, gradient


def _best_of(maxima: list[Maxima]) -> Maxima:
    best = maxima[0]
    for other in maxima[1:]:
        better = (other.value > best.value + _BETTER) | (~best.converged & other.converged & (other.value > best.value - _BETTER))
        better |= ~best.value.isfinite()
        best = Maxima(
            torch.where(better[:, None], other.theta, best.theta),
            torch.where(better, other.value, best.value),
            torch.where(better[:, None], other.gradient, best.gradient),
            torch.where(better, other.converged, best.converged),
        )
    return best


def _profiled(problem: Problem, best: Maxima, theta_true: Tensor) -> ProfileFits:
    curvature = problem.curvature(best.theta)
    covariance = covariance_of(curvature)
    known = torch.where(covariance.isfinite(), curvature, torch.linalg.inv(problem.scale))
    constrained = []
    for column in problem.terms.parameters.interest:
        start = _conditional_start(best.theta, covariance, problem.scale, theta_true, column)
        constrained.append(problem.maximise(problem.region.clamp(start), fixed=column, curvature=known))
    converged = torch.stack([best.converged, *(c.converged for c in constrained)]).all(0)
    return ProfileFits(
        theta=best.theta,
        covariance=covariance,
        value=best.value,
        t_true=torch.stack([2 * (best.value - c.value) for c in constrained], -1),
        conditional=torch.stack([c.theta for c in constrained], 1),
        converged=converged,
        valid=converged & sigma_of(covariance).isfinite().all(-1),
    )


def _conditional_start(theta: Tensor, covariance: Tensor, scale: Tensor, theta_true: Tensor, column: int) -> Tensor:
    """Where a quadratic ln L would have its maximum, given the true value of one parameter."""
    known = covariance.isfinite().all(-1).all(-1)[:, None, None]
    usable = torch.where(known, covariance, scale)
    slope = usable[:, :, column] / usable[:, column, column, None]
    start = theta + slope * (theta_true[column] - theta[:, column, None])
    start[:, column] = theta_true[column]
    return start


def _highest(fits: ProfileFits) -> Tensor:
    """The best of all points seen so far in each fit (E, p)."""
    worst = fits.t_true.argmin(-1)
    conditional = fits.conditional[torch.arange(len(worst)), worst]
    return torch.where((fits.t_true.amin(-1) < 0)[:, None], conditional, fits.theta)
