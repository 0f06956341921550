"""MIGRAD with analytic gradients (James and Roos 1975, Comput. Phys. Commun. 10, 343)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from iminuit import Minuit
from torch import Tensor

from touchneedle.inference.fittable import ROW, Objective, region, step_sizes
from touchneedle.toys.base import ParameterSpace

_HUGE = 1e100
NOT_FINITE = "ln L is not finite"


@dataclass(frozen=True)
class Found:
    """Where MIGRAD ended.

    Attributes:
        theta: (p,).
        value: ln L there.
        sigma: its rough standard errors (p,).
        reason: why it did not converge; empty if it did.
        calls: evaluations of ln L.
    """

    theta: Tensor
    value: float
    sigma: Tensor
    reason: str
    calls: int


def migrad(objective: Objective, start: Tensor, parameters: ParameterSpace, limits: Tensor, fixed: Sequence[int] = ()) -> Found:
    """Maximise ln L from start (p,) inside limits (2, p), with the columns ``fixed`` held."""
    cost = _Cost(objective)
    # iminuit's protocols of cost functions know single numbers as arguments only, not one array.
    value, gradient = cast(Any, cost.value), cast(Any, cost.gradient)
    minuit = Minuit(value, start.numpy(), grad=gradient, name=parameters.names)
    minuit.errordef = Minuit.LIKELIHOOD
    # No HESSE inside MIGRAD, which takes p^2 values: the exact Hessian comes after it.
    minuit.strategy = 0
    minuit.errors = step_sizes(parameters).numpy()
    allowed = region(parameters, limits, fixed)
    minuit.limits = list(zip(allowed.low.tolist(), allowed.high.tolist(), strict=True))
    minuit.fixed = (~allowed.free).tolist()
    minuit.migrad()
    return Found(
        theta=torch.tensor(np.asarray(minuit.values), dtype=torch.float64),
        value=-float(minuit.fval or 0.0),
        sigma=torch.tensor(np.asarray(minuit.errors), dtype=torch.float64),
        reason=_reason(minuit),
        calls=cost.calls,
    )


def _reason(minuit: Minuit) -> str:
    state = minuit.fmin
    if state is None or not math.isfinite(state.fval) or state.fval >= _HUGE:
        return NOT_FINITE
    if state.has_reached_call_limit:
        return "call limit reached"
    if not state.is_valid:
        return f"no convergence (estimated distance to the maximum {state.edm:.2g})"
    return ""


class _Cost:
    """-ln L for MINUIT; value and gradient of the last point are kept, since both are asked for in turn."""

    def __init__(self, objective: Objective) -> None:
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
            value, gradient = self.objective(point, ROW)
        else:
            value, gradient = torch.full((1,), torch.nan), torch.zeros_like(point)
        self.calls += 1
        self._key = key
        self._value = -float(value) if bool(value.isfinite()) else _HUGE
        self._gradient = -gradient[0].nan_to_num().numpy()
