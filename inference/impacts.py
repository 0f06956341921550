"""Impacts: how much each nuisance moves the parameter of interest.

Three numbers per nuisance k, each up and down: the shift of the best fit where theta_k is held at its best value +- its error
after the fit, and before the fit; and where the auxiliary measurement t_k is moved by its error and all is fitted again.
Only the last add in quadrature to the systematic error (Pinto et al. 2024, arXiv:2307.04007). By refits, or at once from the
Hessian H of -ln L, with C = H^-1 and K_k = d^2 ln C_k / d theta_k d t_k:

    d theta / d theta_k = C_k / C_kk,        d theta / d t_k = C_k K_k      (implicit function theorem)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.fit_result import FitResult
from touchneedle.inference.fittable import Fittable, check_events
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.network_error import KnowsItsError, network_error
from touchneedle.inference.profiled import ABOVE, Held, Profiler
from touchneedle.inference.result import Result
from touchneedle.inference.terms import constraint_term
from touchneedle.inference.text_table import signed, table
from touchneedle.inference.weighted import constraint_curvature
from touchneedle.toys.base import Events, EventSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ImpactMethod = Literal["refit", "linear"]
Shift = tuple[float, float]

TRAINING = "training"
_NONE: Shift = (math.nan, math.nan)


@dataclass(frozen=True)
class Impact:
    """What one nuisance does; shifts of the parameter of interest as (down, up), NaN where they do not exist.

    Attributes:
        pull: of the nuisance; NaN without constraint.
        constraint: its error after the fit over that before.
        after: held at the best value -+ its error after the fit.
        before: held at the best value -+ its error before the fit.
        auxiliary: its auxiliary measurement moved by -+ its error before the fit.
    """

    parameter: str
    pull: float
    constraint: float
    after: Shift
    before: Shift
    auxiliary: Shift

    @property
    def size(self) -> float:
        """The larger shift, of ``after`` where there is one; what impacts are sorted by."""
        for shift in (self.after, self.auxiliary):
            known = [abs(value) for value in shift if math.isfinite(value)]
            if known:
                return max(known)
        return 0.0


@dataclass(frozen=True)
class Impacts(Result):
    """Impacts on one parameter, the largest first.

    Attributes:
        method: by refits, or linear from the Hessian.
        total: error of the parameter.
        statistical: its error without that of the auxiliary measurements (nor that of training).
        above: how far a refit with a held nuisance rose above the best fit, in 2 ln L; more than 0.001 means that the best fit had
            missed the maximum.
    """

    parameter: str
    method: ImpactMethod
    impacts: tuple[Impact, ...]
    total: float
    statistical: float
    best: FitResult
    above: float = 0.0

    def of(self, nuisance: str) -> Impact:
        """The impact of one nuisance; raises `InputError` if there is none."""
        for found in self.impacts:
            if found.parameter == nuisance:
                return found
        raise InputError(f"impacts: there is none of {nuisance!r}; known: {', '.join(one.parameter for one in self.impacts)}")

    def summary(self) -> str:
        """A table, the largest impact first."""
        column = self.best.names.index(self.parameter)
        rows = [
            [one.parameter, *(text for shift in (one.after, one.before, one.auxiliary) for text in _texts(shift)), *_state(one)]
            for one in self.impacts
        ]
        header = ["nuisance", "down", "up", "before: down", "up", "auxiliary: down", "up", "pull", "constraint"]
        value = f"{float(self.best.theta[column]):.6g} +- {self.total:.4g} (statistical {self.statistical:.4g})"
        lines = [f"impacts on {self.parameter} = {value}; {self.method}", table(header, rows)]
        if self.above > ABOVE:
            lines.append(f"a refit lies {self.above:.3g} in 2 ln L above the best fit: fit again with starts=20")
        return "\n".join(lines)

    def draw(self) -> Figure:
        """Pulls beside impacts, the largest on top."""
        from touchneedle.inference.impact_figure import draw_impacts

        return draw_impacts(cast(Any, self))


def impacts(
    likelihood: Fittable, events: EventSource, best: FitResult, parameter: str | None = None, method: ImpactMethod = "refit"
) -> Impacts:
    """Impacts of all nuisances on a parameter of interest (the first by default), sorted.

    An estimator that knows the error of its training adds that as one more impact (`touchneedle.inference.network_error`). A
    shift is NaN where the held value would lie outside the parameter's bounds, or the refit does not converge. Raises
    `InputError` for a fit that is not valid.
    """
    check_events(likelihood, events)
    if not best.valid or not bool(best.inverse_hessian.isfinite().all()):
        raise InputError(f"impacts: expected a valid fit with errors of all parameters; got one with: {best.reason or 'some at a bound'}")
    if method not in ("refit", "linear"):
        raise InputError(f"impacts: expected method refit or linear; got {method!r}")
    target = best.parameters.index(parameter) if parameter is not None else best.parameters.interest[0]
    ask = _Refits(likelihood, events, best, target) if method == "refit" else _Linear(best, target)
    found = [_impact(ask, best, k) for k in best.parameters.nuisance if k != target]
    found += _training(likelihood, events, best, target)
    components = best.inverse_hessian @ constraint_curvature(best.parameters, best.theta, best.auxiliary) @ best.inverse_hessian
    return Impacts(
        parameter=best.names[target],
        method=method,
        impacts=tuple(sorted(found, key=lambda one: -one.size)),
        total=float(best.sigma[target]),
        statistical=float((best.covariance - components)[target, target].clamp_min(0).sqrt()),
        best=best,
        above=ask.above,
    )


def auxiliary_response(best: FitResult) -> Tensor:
    """d theta / d t (p, p) of a best fit, column k for the auxiliary measurement t_k; zero without constraint."""
    theta = best.theta.clone().requires_grad_()
    measured = torch.where(best.prefit[1].isfinite(), best.auxiliary, 0.0).requires_grad_()
    with torch.enable_grad():
        value = constraint_term(best.parameters, theta[None], measured[None]).sum()
        (slope,) = torch.autograd.grad(value, theta, create_graph=True)
        rows = [torch.autograd.grad(one, measured, retain_graph=True, allow_unused=True)[0] for one in slope if one.requires_grad]
    cross = torch.stack([torch.zeros_like(theta) if row is None else row for row in rows]) if rows else torch.zeros(len(theta), len(theta))
    return best.inverse_hessian @ cross.double()


@dataclass(frozen=True)
class _Linear:
    """Shifts of theta[target] to first order."""

    best: FitResult
    target: int
    above: float = 0.0

    def held(self, k: int, move: float) -> float:
        covariance = self.best.inverse_hessian
        return float(covariance[self.target, k] / covariance[k, k]) * move if _allowed(self.best, k, move) else math.nan

    def auxiliary(self, k: int, move: float) -> float:
        return float(self.response[self.target, k]) * move

    @cached_property
    def response(self) -> Tensor:
        return auxiliary_response(self.best)


@dataclass
class _Refits:
    """Shifts of theta[target] by fits."""

    likelihood: Fittable
    events: EventSource
    best: FitResult
    target: int
    above: float = 0.0

    def held(self, k: int, move: float) -> float:
        if not _allowed(self.best, k, move):
            return math.nan
        found = Profiler.beside(self.likelihood, self.events, self.best).at([k], [float(self.best.theta[k]) + move])
        self.above = max(self.above, 2 * (found.value - self.best.value))
        return self._shift(found)

    def auxiliary(self, k: int, move: float) -> float:
        measured = self.best.auxiliary.clone()
        measured[k] += move
        guess = self.best.theta + self.response[:, k] * move
        return self._shift(Profiler.beside(self.likelihood, self.events, self.best, measured).at([], [], [guess]))

    @cached_property
    def response(self) -> Tensor:
        return auxiliary_response(self.best)

    def _shift(self, found: Held) -> float:
        return float(found.theta[self.target] - self.best.theta[self.target]) if found.valid else math.nan


def _impact(ask: _Linear | _Refits, best: FitResult, k: int) -> Impact:
    after, before = float(best.sigma[k]), float(best.prefit[1][k])
    known = math.isfinite(before)
    return Impact(
        parameter=best.names[k],
        pull=float(best.pull[k]),
        constraint=float(best.constraint[k]),
        after=(ask.held(k, -after), ask.held(k, after)),
        before=(ask.held(k, -before), ask.held(k, before)) if known else _NONE,
        auxiliary=(ask.auxiliary(k, -before), ask.auxiliary(k, before)) if known else _NONE,
    )


def _allowed(best: FitResult, k: int, move: float) -> bool:
    low, high = best.parameters.parameters[k].bounds
    return low <= float(best.theta[k]) + move <= high


def _training(likelihood: Fittable, events: EventSource, best: FitResult, target: int) -> list[Impact]:
    """The error of training as one more impact, where the estimator knows it."""
    if not isinstance(likelihood, Likelihood) or not isinstance(events, Events) or not isinstance(likelihood.estimator, KnowsItsError):
        return []
    error = float(network_error(likelihood, events, best).sigma[target])
    return [Impact(TRAINING, math.nan, math.nan, _NONE, _NONE, (-error, error))]


def _texts(shift: Shift) -> tuple[str, str]:
    return ("", "") if shift == _NONE or all(math.isnan(value) for value in shift) else (signed(shift[0]), signed(shift[1]))


def _state(one: Impact) -> tuple[str, str]:
    return (signed(one.pull), f"{one.constraint:.3g}") if math.isfinite(one.pull) else ("", "")
