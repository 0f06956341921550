"""Maxima of ln L with some parameters held: what scans, intervals and impacts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from touchneedle.inference.fit import FitResult, at_best
from touchneedle.inference.fittable import Fittable, Objective, region, search_limits, step_sizes
from touchneedle.inference.maximise import maximise
from touchneedle.inference.minuit import migrad
from touchneedle.toys.base import EventSource

_EDM = 1e-9
# 2 ln L by which a constrained maximum may rise above the best fit before that has missed something.
ABOVE = 1e-3


@dataclass(frozen=True)
class Held:
    """The maximum of ln L given the held parameters: theta (p,), ln L, and whether the search converged."""

    theta: Tensor
    value: float
    valid: bool


@dataclass(frozen=True)
class Profiler:
    """Searches beside a best fit, that start where a quadratic ln L would have its maximum and know its curvature.

    Attributes:
        auxiliary: the measured values of the constrained nuisances (p,), those of the best fit unless said.
    """

    likelihood: Fittable
    events: EventSource
    best: FitResult
    auxiliary: Tensor

    @classmethod
    def beside(cls, likelihood: Fittable, events: EventSource, best: FitResult, auxiliary: Tensor | None = None) -> Profiler:
        """The profiler of a best fit of these events, with its local normalisation."""
        measured = best.auxiliary if auxiliary is None else auxiliary.double()
        return cls(at_best(likelihood, best.normalisation), events, best, measured)

    @cached_property
    def objective(self) -> Objective:
        """ln L of the events."""
        return self.likelihood.objective(self.events, self.auxiliary)

    @cached_property
    def limits(self) -> Tensor:
        """Lowest and highest theta of a fit (2, p)."""
        return search_limits(self.likelihood)

    @cached_property
    def covariance(self) -> Tensor:
        """Inverse Hessian of the best fit, or first steps where it has none (p, p)."""
        steps = torch.diag(step_sizes(self.best.parameters) ** 2)
        found = self.best.inverse_hessian
        return found if bool(found.isfinite().all()) else steps

    def at(self, columns: Sequence[int], values: Sequence[float], near: Sequence[Tensor] = ()) -> Held:
        """The maximum with the parameters ``columns`` held at ``values``.

        It is searched from wherever ln L is highest among: the quadratic prediction, and the points ``near`` (p,) each; and from every
        further minimum that the best fit knows of.
        """
        self.likelihood.parameters.check(self._held(self.best.theta, columns, values))
        candidates = [self.predict(columns, values), *(self._held(point, columns, values) for point in near)]
        starts = [max(candidates, key=self._value), *(self._held(other.theta, columns, values) for other in self.best.minima[1:])]
        return max((self._search(start, columns) for start in starts), key=lambda found: (found.valid, found.value))

    def predict(self, columns: Sequence[int], values: Sequence[float]) -> Tensor:
        """Where a quadratic ln L has its maximum given the held values (p,), inside the limits."""
        chosen = torch.tensor(list(columns), dtype=torch.int64)
        wanted = torch.tensor(list(values), dtype=torch.float64)
        slope = torch.linalg.solve(self.covariance[chosen[:, None], chosen], self.covariance[chosen]).T
        start = self.best.theta + slope @ (wanted - self.best.theta[chosen])
        return region(self.best.parameters, self.limits, columns).clamp(self._held(start, columns, values))

    def _search(self, start: Tensor, columns: Sequence[int]) -> Held:
        allowed = region(self.best.parameters, self.limits, columns)
        found = maximise(self.objective, start[None], allowed, torch.linalg.inv(self.covariance), edm=_EDM)
        if bool(found.converged) or not bool(allowed.free.any()):
            return Held(found.theta[0], float(found.value), bool(found.converged))
        slow = migrad(self.objective, start, self.best.parameters, self.limits, columns)
        return Held(slow.theta, slow.value, not slow.reason)

    def _value(self, theta: Tensor) -> float:
        value = float(self.objective(theta[None], torch.zeros(1, dtype=torch.int64))[0])
        return value if value == value else -torch.inf

    def _held(self, theta: Tensor, columns: Sequence[int], values: Sequence[float]) -> Tensor:
        held = theta.clone()
        held[list(columns)] = torch.tensor(list(values), dtype=torch.float64)
        return held
