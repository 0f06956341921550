"""Fits of real events: MINUIT with analytic gradients, and profile scans.

`fit` minimises -ln L by MIGRAD (James and Roos 1975, Comput. Phys. Commun. 10, 343) within the bounds and
takes sigma from HESSE. Pseudo-experiments by the hundred have their own, batched, path
(`touchneedle.inference.pseudo_fits`); tests check one against the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from iminuit import Minuit
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.likelihood import EventObjective, Likelihood
from touchneedle.inference.normalisation import RADIUS, LocalNormalisation, fit_local_normalisation
from touchneedle.inference.polynomial import Ball
from touchneedle.inference.terms import fit_limits
from touchneedle.toys.base import Events, ParameterSpace

_HUGE = 1e100
_ROW = torch.zeros(1, dtype=torch.int64)


@dataclass(frozen=True)
class FitResult:
    """A best fit.

    Attributes:
        theta: best fit (p,).
        sigma: standard errors from the Hessian (p,); NaN where there are none.
        covariance: (p, p).
        value: ln L at the best fit, up to a constant.
        valid: converged, with a positive definite Hessian.
        calls: evaluations of ln L.
        reason: why it is not valid; empty otherwise.
        normalisation: the local normalisation that was used, if any.
    """

    names: tuple[str, ...]
    theta: Tensor
    sigma: Tensor
    covariance: Tensor
    value: float
    valid: bool
    calls: int
    reason: str = ""
    normalisation: LocalNormalisation | None = None


@dataclass(frozen=True)
class ProfileScan:
    """Profile likelihood along one parameter.

    Attributes:
        values: scanned values (m,).
        t: 2 [ln L(best) - max ln L at the value] (m,); never negative.
        theta: maximum at each value (m, p).
        valid: whether each constrained fit converged (m,).
    """

    parameter: str
    values: Tensor
    t: Tensor
    theta: Tensor
    valid: Tensor


def fit(likelihood: Likelihood, events: Events, start: Tensor | None = None, auxiliary: Tensor | None = None) -> FitResult:
    """Maximise ln L of some events over all parameters, within their bounds and flat priors (see `fit_limits`).

    Args:
        likelihood: what to maximise.
        events: the data.
        start: starting point (p,), or several (s, p) of which the best maximum is kept; nominal by default.
        auxiliary: measured values of the constrained nuisances (p,); nominal by default.

    An estimator that is not normalised is normalised around its own fit, twice (see `normalisation`).
    Raises `InputError` for a start outside the bounds.
    """
    parameters = likelihood.parameters
    starts = torch.atleast_2d(parameters.nominal if start is None else start.double())
    parameters.check(starts)
    result = _best(likelihood, events, starts, auxiliary)
    for _ in range(2):
        local = _normalise_at(likelihood, result)
        if local is None:
            return result
        calls = result.calls
        result = _best(likelihood.normalised_by(local), events, result.theta[None], auxiliary, calls)
    return result


def profile_scan(
    likelihood: Likelihood, events: Events, parameter: str, values: Tensor, auxiliary: Tensor | None = None, best: FitResult | None = None
) -> ProfileScan:
    """Maximise ln L over all other parameters at each value of one; raises `InputError` outside its bounds."""
    column = likelihood.parameters.index(parameter)
    best = fit(likelihood, events, auxiliary=auxiliary) if best is None else best
    objective = likelihood.normalised_by(best.normalisation).objective(events, auxiliary)
    maxima = []
    start = best.theta
    for value in values.double():
        start = start.clone()
        start[column] = value
        likelihood.parameters.check(start)
        maxima.append(_migrad(objective, start, likelihood.parameters, fixed=column))
        start = maxima[-1].theta
    top = max(best.value, *(m.value for m in maxima)) if maxima else best.value
    t = torch.tensor([2 * (top - m.value) for m in maxima], dtype=torch.float64)
    theta = torch.stack([m.theta for m in maxima]) if maxima else torch.empty(0, len(best.theta), dtype=torch.float64)
    return ProfileScan(parameter, values.double(), t, theta, torch.tensor([m.valid for m in maxima], dtype=torch.bool))


def _best(likelihood: Likelihood, events: Events, starts: Tensor, auxiliary: Tensor | None, calls: int = 0) -> FitResult:
    objective = likelihood.objective(events, auxiliary)
    results = [_migrad(objective, start, likelihood.parameters) for start in starts]
    best = max(results, key=lambda result: (result.valid, result.value))
    calls += sum(result.calls for result in results)
    return FitResult(**{**best.__dict__, "calls": calls, "normalisation": likelihood.normalisation})


def _normalise_at(likelihood: Likelihood, result: FitResult) -> LocalNormalisation | None:
    if likelihood.estimator.normalised:
        return None
    covariance = result.covariance if result.valid else torch.diag(step_sizes(likelihood.parameters) ** 2)
    return fit_local_normalisation(likelihood.estimator, Ball.around(result.theta, covariance, RADIUS, likelihood.parameters))


def _migrad(objective: EventObjective, start: Tensor, parameters: ParameterSpace, fixed: int | None = None) -> FitResult:
    cost = _Cost(objective)
    if fixed is not None and len(parameters) == 1:
        return _nothing_free(cost, start, parameters)
    # iminuit's protocols of cost functions know single numbers as arguments only, not one array.
    value, gradient = cast(Any, cost.value), cast(Any, cost.gradient)
    minuit = Minuit(value, start.numpy(), grad=gradient, name=parameters.names)
    minuit.errordef = Minuit.LIKELIHOOD
    minuit.errors = step_sizes(parameters).numpy()
    limits = fit_limits(objective.estimator)
    minuit.limits = [(low, high) for low, high in limits.T.tolist()]
    if fixed is not None:
        minuit.limits[fixed] = parameters.parameters[fixed].bounds
        minuit.values[fixed] = float(start[fixed])
        minuit.fixed[fixed] = True
    minuit.migrad()
    minuit.hesse()
    return _result(minuit, cost, parameters)


def _nothing_free(cost: _Cost, start: Tensor, parameters: ParameterSpace) -> FitResult:
    """The answer where no parameter is left to maximise over, which MINUIT refuses."""
    value = cost.value(start.numpy())
    none = torch.full((1,), torch.nan, dtype=torch.float64)
    reason = "ln L is not finite" if value >= _HUGE else ""
    return FitResult(parameters.names, start, none, none[:, None], -value, not reason, cost.calls, reason)


def _result(minuit: Minuit, cost: _Cost, parameters: ParameterSpace) -> FitResult:
    p = len(parameters)
    found = minuit.covariance
    covariance = torch.full((p, p), torch.nan, dtype=torch.float64) if found is None else torch.tensor(np.asarray(found))
    reason = _reason(minuit)
    return FitResult(
        names=parameters.names,
        theta=torch.tensor(np.asarray(minuit.values), dtype=torch.float64),
        sigma=covariance.diagonal().sqrt(),
        covariance=covariance,
        value=-float(minuit.fval or 0.0),
        valid=not reason,
        calls=cost.calls,
        reason=reason,
    )


def _reason(minuit: Minuit) -> str:
    state = minuit.fmin
    if state is None or not math.isfinite(state.fval) or state.fval >= _HUGE:
        return "ln L is not finite"
    if state.has_reached_call_limit:
        return "call limit reached"
    if not state.is_valid:
        return f"no convergence (estimated distance to the minimum {state.edm:.2g})"
    if not minuit.accurate:
        return "Hessian not positive definite"
    return ""


class _Cost:
    """-ln L for MINUIT; value and gradient of the last point are kept, since both are asked for in turn."""

    def __init__(self, objective: EventObjective) -> None:
        self.objective = objective
        self.calls = 0
        self._key = b""
        self._value, self._gradient = math.nan, np.empty(0)

    def value(self, theta: np.ndarray) -> float:
        self._evaluate(theta)
        return self._value

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        self._evaluate(theta)
        return self._gradient

    def _evaluate(self, theta: np.ndarray) -> None:
        key = np.asarray(theta, dtype=np.float64).tobytes()
        if key == self._key:
            return
        point = torch.tensor(np.asarray(theta, dtype=np.float64))[None]
        if bool(point.isfinite().all()):
            value, gradient = self.objective(point, _ROW)
        else:
            value, gradient = torch.full((1,), torch.nan), torch.zeros_like(point)
        self.calls += 1
        self._key = key
        self._value = -float(value) if bool(value.isfinite()) else _HUGE
        self._gradient = -gradient[0].nan_to_num().numpy()


def step_sizes(parameters: ParameterSpace) -> Tensor:
    """A tenth of each prior's standard width (p,): first steps of a search."""
    one = torch.ones(len(parameters), dtype=torch.float64)
    width = parameters.from_normal(one) - parameters.from_normal(-one)
    if not bool((width > 0).all()):
        raise InputError(f"parameters: expected priors of positive width; got {width.tolist()}")
    return 0.05 * width
