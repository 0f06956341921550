"""Fits of pseudo-experiments: the one entry point, and the safeguards of the surface.

Centre on the estimator's own fit of the pool; draw a ball of 4 sigma; fit all experiments on a cubic or quartic surface;
refit by the exact likelihood what left the ball, in float32 where ln L is the same; check 20 fits by the exact
likelihood; if they differ by more than 0.1 sigma, declare the surface failed and fit everything exactly. Problems
with more than 5 parameters or with a ball that sticks out of the bounds go to exact batched fits at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator, in_float32
from touchneedle.inference.batched import Problem, ProfileFits, exact_fits, first, merge, profile_fits, pseudo_objective
from touchneedle.inference.centre import find_centre, pool_problem
from touchneedle.inference.fit_options import FitOptions
from touchneedle.inference.likelihood import check_additive
from touchneedle.inference.maximise import EDM, EDM_NEAR, covariance_of, sigma_of
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.pseudo_experiments import PseudoExperiments
from touchneedle.inference.surface import PoolSurface, build_surface
from touchneedle.inference.terms import ExactTerms, Rates


@dataclass(frozen=True)
class PseudoFits:
    """Fits of E pseudo-experiments by one estimator.

    Attributes:
        theta: best fits (E, p).
        sigma: standard errors from the Hessian (E, p); NaN where it is not positive definite.
        t_true: 2 [ln L(best) - max ln L(parameter of interest = truth, or the value tested)], nuisances profiled (E, n_interest).
        conditional: these constrained maxima (E, n_interest, p).
        converged: free and constrained fits did (E,).
        valid: converged, with finite sigma (E,).
        exact: fitted by the exact likelihood rather than on the surface (E,).
        pool_theta: fit of the whole pool weighted to n events, auxiliary measurements at the truth (p,).
        pool_covariance: its covariance (p, p), NaN if not positive definite.
        method: how most were fitted.
        share_outside: share of the surface's fits that left its ball, freely or constrained, and were refitted
            exactly; 0 for batched fits.
        check_rms: rms over the checked fits and parameters of (surface - exact), in the surface's sigma; NaN without surface.
        check_count: number of fits it was measured on.
        surface_failed: the surface was tried and given up.
        surface: the surface in use; None for batched fits.
    """

    theta: Tensor
    sigma: Tensor
    t_true: Tensor
    conditional: Tensor
    converged: Tensor
    valid: Tensor
    exact: Tensor
    pool_theta: Tensor
    pool_covariance: Tensor
    method: Literal["surface", "batched"]
    share_outside: float
    check_rms: float
    check_count: int
    surface_failed: bool
    seconds_per_fit: float
    terms: ExactTerms
    surface: PoolSurface | None

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def pool_sigma(self) -> Tensor:
        """Standard errors of the pool fit (p,), at the expected number of events."""
        return sigma_of(self.pool_covariance)


def fit_pseudo_experiments(
    estimator: Estimator,
    experiments: PseudoExperiments,
    *,
    rates: Rates | None = None,
    metric_covariance: Tensor | None = None,
    options: FitOptions | None = None,
    tested: Tensor | None = None,
    starts: Tensor | None = None,
) -> PseudoFits:
    """Fit all pseudo-experiments with an estimator, nuisances free, and profile at the truth.

    Args:
        estimator: in float64.
        experiments: data sets drawn from one pool.
        rates: expected events per process, for the extended term (only ratios to the truth matter).
        metric_covariance: covariance (p, p) at this number of events by a trusted fit (the oracle's), used
            where the estimator's own Hessian is not positive definite or off by more than 4 in sigma; by
            default from the spread of the estimator's scores.
        options: how to fit; the defaults choose.
        tested: point (p,) whose parameters of interest are profiled at, one at a time; the truth by default.
        starts: more starting points (s, p) of exact fits, where ln L has several maxima.

    Exact fits are limited to ``options.max_exact`` experiments, so the result may hold fewer than asked for.
    Raises `InputError` for an estimator whose likelihood is not a sum over events.
    """
    check_additive(estimator)
    started = time.perf_counter()
    run = _Run(estimator, experiments, rates, metric_covariance, options or FitOptions(), tested, starts)
    surface = run.surface()
    fits = run.on_surface(surface) if surface is not None else run.batched()
    return replace(fits, seconds_per_fit=(time.perf_counter() - started) / max(1, len(fits)))


class _Run:
    """One call of `fit_pseudo_experiments`."""

    def __init__(
        self,
        estimator: Estimator,
        experiments: PseudoExperiments,
        rates: Rates | None,
        metric: Tensor | None,
        options: FitOptions,
        tested: Tensor | None,
        starts: Tensor | None,
    ) -> None:
        self.estimator, self.experiments, self.options = estimator, experiments, options
        self.parameters = estimator.spec.parameters
        self.tested = experiments.theta_true if tested is None else tested.double()
        self.more_starts = self.tested.new_empty(0, len(self.tested)) if starts is None else starts.double()
        self.centre = find_centre(estimator, experiments, rates, metric, min(options.centre_events, int(20 * experiments.n_events)))

    def surface(self) -> PoolSurface | None:
        """The surface, where it promises to work."""
        options = self.options
        if options.method == "batched":
            return None
        ball = Ball.around(self.centre.theta, self.centre.covariance, options.radius, self.parameters)
        if options.method == "auto" and len(self.parameters) > options.max_parameters:
            return None
        if ball.share_in_bounds < options.min_share_in_bounds:
            return None
        return build_surface(self.estimator, self.experiments, self.centre.terms, ball, order=self._order(), at_least=options.min_points)

    def _order(self) -> int:
        few = len(self.parameters) <= 3 and self.experiments.n_events < self.options.few_events
        return self.options.order or (4 if few else 3)

    def on_surface(self, surface: PoolSurface) -> PseudoFits:
        """All fits on the surface, with the exact ones that it needs; batched fits if it fails."""
        fits = self._surface_fits(surface)
        runaway, outside = self._outside(surface, fits)
        share = float(outside.double().mean())
        good = ~runaway & fits.valid
        rms, count = self._check(fits, good.nonzero().flatten()[: self.options.n_check])
        if not rms <= self.options.max_check_rms or float(runaway.double().mean()) > self.options.max_outside:
            return replace(self.batched(fits, good), share_outside=share, check_rms=rms, check_count=count, surface_failed=True)
        kept = int((outside.cumsum(0) <= self.options.max_exact).sum())
        fits, outside = first(fits, kept), outside[:kept]
        outside_rows = outside.nonzero().flatten()
        if len(outside_rows):
            fits = merge(fits, self._exact(outside_rows, fits, good), outside_rows)
        pool_theta, pool_covariance = self._surface_pool(surface)
        return self._packed(fits, outside, pool_theta, pool_covariance, surface, share, rms, count)

    def _check(self, fits: ProfileFits, rows: Tensor) -> tuple[float, int]:
        """Rms of (surface - exact) over these fits (e,) and parameters, in sigma, and the number of exact maxima found.

        The exact fits start on the surface, with its curvature: a few steps. NaN if most of them failed.
        """
        objective = pseudo_objective(self.estimator, self.experiments[rows], self.centre.terms)
        problem = Problem(objective, self.centre.terms, fits.covariance[rows], edm=EDM_NEAR)
        maxima = problem.maximise(fits.theta[rows])
        found = maxima.converged
        if not len(rows) or 2 * int(found.sum()) < len(rows):
            return torch.nan, int(found.sum())
        difference = (fits.theta[rows] - maxima.theta)[found] / fits.sigma[rows][found]
        return float(difference.square().mean().sqrt()), int(found.sum())

    def batched(self, near: ProfileFits | None = None, good: Tensor | None = None) -> PseudoFits:
        """All fits (at most ``max_exact``) by the exact likelihood; those that are ``good`` (E,) start at fits ``near`` them."""
        rows = torch.arange(min(len(self.experiments), self.options.max_exact))
        fits = self._exact(rows, near, good)
        problem = pool_problem(self.estimator, self.experiments, self.centre)
        maxima = problem.maximise(self.centre.theta[None])
        covariance = covariance_of(problem.curvature(maxima.theta))[0]
        exact = torch.ones(len(rows), dtype=torch.bool)
        return self._packed(fits, exact, maxima.theta[0], covariance, None, 0.0, torch.nan, 0)

    def _surface_fits(self, surface: PoolSurface) -> ProfileFits:
        problem = surface.problem(surface.experiment_sums(self.experiments), self.experiments.summaries)
        start = surface.ball.centre.expand(1, len(self.experiments), -1)
        return profile_fits(problem, start, self.tested)

    def _outside(self, surface: PoolSurface, fits: ProfileFits) -> tuple[Tensor, Tensor]:
        """Fits whose maximum left the ball, and those of which any fit did or failed (E,).

        A constrained fit leaves it where the estimator is biased by several sigma, which the surface can stand.
        """
        every = torch.cat([fits.theta[:, None], fits.conditional], 1)
        within = surface.ball.holds(every.flatten(0, 1)).reshape(every.shape[:2])
        return ~within[:, 0], ~within.all(-1) | ~fits.valid

    def _surface_pool(self, surface: PoolSurface) -> tuple[Tensor, Tensor]:
        n = torch.tensor([float(self.experiments.n_events)], dtype=torch.float64)
        maxima, curvature = surface.mean_fits(surface.mean, n, surface.ball.centre)
        return maxima.theta[0], covariance_of(curvature)[0]

    def _starts(self, count: int) -> Tensor:
        points = torch.stack([self.centre.theta, self.experiments.theta_true])[: self.options.n_starts]
        points = torch.cat([points, self.more_starts])
        return points[:, None].expand(-1, count, -1)

    def _quick(self, near: ProfileFits, rows: Tensor) -> Estimator:
        """The estimator in float32 if it gives ln L of these fits (e,) with errors that no fit would notice, else as it is."""
        quick, theta = in_float32(self.estimator), near.theta[rows]
        if quick is self.estimator or len(rows) < 2:
            return self.estimator
        some, every = self.experiments[rows], torch.arange(len(rows))
        values = [pseudo_objective(each, some, self.centre.terms)(theta, every)[0] for each in (quick, self.estimator)]
        return quick if float((values[0] - values[1]).std()) < EDM_NEAR else self.estimator

    def _exact(self, rows: Tensor, near: ProfileFits | None = None, good: Tensor | None = None) -> ProfileFits:
        """Exact fits of some experiments (e,); those that are ``good`` (E,) start at fits ``near`` them (E)."""
        estimator, starts, scale, edm = self.estimator, self._starts(len(rows)), self.centre.covariance, EDM
        if near is not None and good is not None:
            estimator = self._quick(near, good[: len(near.theta)].nonzero().flatten()[: self.options.n_check])
            starts = torch.cat([torch.where(good[rows, None], near.theta[rows], starts[0])[None], starts[1:]])
            scale, edm = torch.where(good[rows, None, None], near.covariance[rows], scale), EDM_NEAR
        return exact_fits(estimator, self.experiments, self.centre.terms, rows, starts, scale, edm, self.tested, self._within())

    def _within(self) -> Callable[[Tensor], Tensor] | None:
        """Where free exact fits stay; anywhere where more starts say that there are several maxima."""
        local = self.centre.terms.normalisation
        known = None if local is None else local.ball
        return known.contains if known is not None and self.options.give_up and not len(self.more_starts) else None

    def _packed(
        self,
        fits: ProfileFits,
        exact: Tensor,
        pool_theta: Tensor,
        pool_covariance: Tensor,
        surface: PoolSurface | None,
        share: float,
        rms: float,
        count: int,
    ) -> PseudoFits:
        return PseudoFits(
            theta=fits.theta,
            sigma=fits.sigma,
            t_true=fits.t_true,
            conditional=fits.conditional,
            converged=fits.converged,
            valid=fits.valid,
            exact=exact,
            pool_theta=pool_theta,
            pool_covariance=pool_covariance,
            method="batched" if surface is None else "surface",
            share_outside=share,
            check_rms=rms,
            check_count=count,
            surface_failed=False,
            seconds_per_fit=torch.nan,
            terms=self.centre.terms,
            surface=surface,
        )
