"""Fits of real events: MINUIT with analytic gradients, Newton's last steps, errors from the Hessian.

`fit` maximises ln L by MIGRAD within the bounds, arrives by Newton's method, and takes errors from second derivatives.
Pseudo-experiments by the hundred have their own, batched, path (`touchneedle.inference.pseudo_fits`); tests check one
against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.curvature import Peak, find_peak
from touchneedle.inference.fit_result import FitResult, Minimum
from touchneedle.inference.fittable import (
    Fittable,
    Objective,
    check_events,
    check_positive,
    count_non_positive,
    region,
    search_limits,
    step_sizes,
)
from touchneedle.inference.maximise import Region, covariance_of
from touchneedle.inference.minuit import NOT_FINITE, Found, migrad
from touchneedle.inference.normalisation import RADIUS, LocalNormalisation, fit_local_normalisation
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.terms import fit_limits
from touchneedle.inference.weighted import sandwich_covariance, score_information
from touchneedle.toys.base import EventSource

__all__ = ["FitResult", "fit", "fit_limits", "step_sizes"]

_RIVAL = 9.0
_DISTINCT = 0.5
_EDM = 1e-4
_TRAINED_SIGMA = 3.0
_MOST_WALKS = 8
_GUESS_EVENTS = 10_000


def fit(
    likelihood: Fittable,
    events: EventSource,
    start: Tensor | None = None,
    auxiliary: Tensor | None = None,
    *,
    starts: int = 1,
    seed: int = 0,
    asimov: bool = False,
) -> FitResult:
    """Maximise ln L of some events over all parameters, within their bounds and flat priors (see `fit_limits`).

    Args:
        likelihood: what to maximise.
        events: the data. If they are weighted, errors are those of the sandwich (`touchneedle.inference.weighted`).
        start: starting point (p,), or several (s, p) of which the best maximum is kept; nominal by default.
        auxiliary: measured values of the constrained nuisances (p,); nominal by default.
        starts: number of starting points; those beyond ``start`` are Sobol points of the fit's limits.
        seed: of the Sobol points.
        asimov: the weights are expected numbers of events, so that the Hessian alone gives the errors.

    An estimator that is not normalised is normalised around its own fit, twice (see `normalisation`); the first time it is
    followed from ``start``, as the pool of pseudo-experiments is.
    Raises `InputError` for a start outside the bounds or where ln L of a signed density does not exist, and for events
    that cannot be fitted (none, not numbers, no positive weight).
    """
    parameters = likelihood.parameters
    given = torch.atleast_2d(parameters.nominal if start is None else start.double())
    parameters.check(given)
    weighted = check_events(likelihood, events)
    auxiliary = parameters.nominal if auxiliary is None else auxiliary.double()
    for point in given:
        check_positive(likelihood, point, events)
    data, reached = _Data(likelihood, events, auxiliary).normalised_near(given[0])
    result = data.best(torch.cat([reached[None], given[1:], sobol_starts(likelihood, starts - len(given), seed)]))
    for _ in range(2):
        local = data.normalise_at(result)
        if local is None:
            break
        data = replace(data, likelihood=at_best(likelihood, local))
        again = data.best(result.theta[None])
        result = replace(again, calls=result.calls + again.calls, starts=result.starts, normalisation=local)
    if weighted and not asimov and result.valid:
        covariance = sandwich_covariance(data.likelihood, events, result)
        return replace(result, covariance=covariance, weighted=True)
    return result


def at_best(likelihood: Any, normalisation: LocalNormalisation | None) -> Any:
    """The likelihood with the local normalisation of a fit, if it has one."""
    return likelihood if normalisation is None else likelihood.normalised_by(normalisation)


def sobol_starts(likelihood: Fittable, count: int, seed: int) -> Tensor:
    """Scrambled Sobol points (count, p) of the fit's limits, where they are within 3 sigma of the prior."""
    parameters = likelihood.parameters
    if count <= 0:
        return torch.empty(0, len(parameters), dtype=torch.float64)
    edge = torch.full((len(parameters),), _TRAINED_SIGMA, dtype=torch.float64)
    low, high = search_limits(likelihood)
    low, high = torch.maximum(low, parameters.from_normal(-edge)), torch.minimum(high, parameters.from_normal(edge))
    unit = torch.quasirandom.SobolEngine(len(parameters), scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return low + (high - low) * unit


@dataclass(frozen=True)
class _Data:
    """One data set and its likelihood."""

    likelihood: Fittable
    events: EventSource
    auxiliary: Tensor

    def best(self, starts: Tensor) -> FitResult:
        """The best maximum from starts (s, p), with its rivals."""
        parameters = self.likelihood.parameters
        objective = self.likelihood.objective(self.events, self.auxiliary)
        limits = search_limits(self.likelihood)
        found = [migrad(objective, start, parameters, limits) for start in starts]
        best = max(found, key=lambda one: (not one.reason, one.value))
        peak = _peak_of(objective, best, region(parameters, limits))
        bad = count_non_positive(self.likelihood, peak.theta, self.events)
        reason = f"density not positive at {bad} events" if bad else _reason(best, peak)
        return FitResult(
            parameters=parameters,
            theta=peak.theta,
            covariance=peak.covariance,
            inverse_hessian=peak.covariance,
            value=peak.value,
            valid=not reason,
            calls=peak.calls + sum(one.calls for one in found),
            auxiliary=self.auxiliary,
            reason=reason,
            edm=peak.edm,
            hessian=peak.method,
            at_bound=tuple(name for name, held in zip(parameters.names, peak.blocked.tolist(), strict=True) if held),
            minima=_minima(peak, found, step_sizes(parameters)),
            starts=len(starts),
            non_positive=bad,
        )

    def normalised_near(self, start: Tensor) -> tuple[_Data, Tensor]:
        """The same data, normalised where a fit from ``start`` (p,) leads, and that place (p,).

        Without normalisation a ratio may have its maximum far away, and a correction holds in a ball only: so the ball
        walks, no further than to its own edge each time, until it holds the fit.
        """
        estimator = getattr(self.likelihood, "estimator", None)
        if estimator is None or estimator.normalised:
            return self, start
        centre, covariance = start, self._first_covariance(start)
        here = self
        for _ in range(_MOST_WALKS):
            ball = Ball.around(centre, covariance, RADIUS, self.likelihood.parameters)
            local = fit_local_normalisation(estimator, ball)
            if local is None:
                return self, start
            here = replace(self, likelihood=at_best(self.likelihood, local))
            found = here.best(centre[None])
            distance = float(ball.distance(found.theta[None])[0])
            if distance <= RADIUS:
                return here, found.theta
            centre = centre + (RADIUS / distance) * (found.theta - centre)
        return here, centre

    def _first_covariance(self, start: Tensor) -> Tensor:
        """Covariance (p, p) by the spread of scores of some events at a point, or first steps where that says nothing."""
        steps = torch.diag(step_sizes(self.likelihood.parameters) ** 2)
        some = next(iter(self.events.batches(_GUESS_EVENTS)), None)
        if some is None or not len(some):
            return steps
        try:
            each = len(self.events) / len(some)
            found = covariance_of(score_information(self.likelihood, some, start, self.auxiliary, each))
        except InputError:
            return steps
        return found if bool(found.isfinite().all()) else steps

    def normalise_at(self, result: FitResult) -> LocalNormalisation | None:
        """The local normalisation around a fit, for an estimator that needs one."""
        estimator = getattr(self.likelihood, "estimator", None)
        if estimator is None or estimator.normalised:
            return None
        known = result.valid and bool(result.covariance.isfinite().all())
        covariance = result.covariance if known else torch.diag(step_sizes(result.parameters) ** 2)
        return fit_local_normalisation(estimator, Ball.around(result.theta, covariance, RADIUS, result.parameters))


def _peak_of(objective: Objective, found: Found, allowed: Region) -> Peak:
    if found.reason == NOT_FINITE:
        return _no_peak(found)
    return find_peak(objective, found.theta, found.sigma, allowed)


def _no_peak(found: Found) -> Peak:
    """What is known where ln L does not exist."""
    nothing = torch.full((len(found.theta), len(found.theta)), torch.nan, dtype=torch.float64)
    return Peak(found.theta, found.value, nothing, nothing, "differences", torch.nan, torch.zeros(len(found.theta), dtype=torch.bool), 0)


def _reason(found: Found, peak: Peak) -> str:
    """Why a fit is not valid; Newton may have arrived where MIGRAD gave up."""
    if found.reason == NOT_FINITE:
        return found.reason
    if not peak.curved:
        return found.reason or "Hessian not positive definite"
    return "" if peak.edm < _EDM else found.reason or f"no convergence (estimated distance to the maximum {peak.edm:.2g})"


def _minima(best: Peak, found: Sequence[Found], step: Tensor) -> tuple[Minimum, ...]:
    """The best and its distinct rivals, in units of its errors (of first steps where it has none)."""
    sigma = best.covariance.diagonal().sqrt()
    sigma = torch.where(sigma.isfinite(), sigma, step)
    kept = [Minimum(best.theta, 0.0)]
    for one in sorted(found, key=lambda one: -one.value):
        distance = 2 * (best.value - one.value)
        if one.reason or distance > _RIVAL:
            continue
        if all(bool(((one.theta - other.theta).abs() > _DISTINCT * sigma).any()) for other in kept):
            kept.append(Minimum(one.theta, distance))
    return tuple(kept)
