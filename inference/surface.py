"""The shared-pool surface: ln L of every pseudo-experiment as a cubic or quartic in theta, from one table.

log_ratio of all pool events is tabulated at M Sobol points of a ball of 4 sigma around the estimator's own
fit; the table is summed over the events of an experiment first, and only then a polynomial is fitted (one
small matrix product). Rates, constraints and local normalisation are added exactly. A fit then costs under a
millisecond. A polynomial is unbounded and a rugged estimator is no polynomial: `pseudo_fits` holds the safeguards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from touchneedle.estimators.base import Estimator, in_float32
from touchneedle.inference.batched import Problem
from touchneedle.inference.maximise import Maxima
from touchneedle.inference.polynomial import Ball, Monomials
from touchneedle.inference.pseudo_experiments import PseudoExperiments
from touchneedle.inference.terms import ExactTerms, Summaries

_EVENTS_PER_TABLE_CHUNK = 2**13
_MEAN_FIT_STEPS = 25


@dataclass(frozen=True)
class PoolSurface:
    """The table of a pool, and the polynomials made of it.

    Attributes:
        points: where log_ratio was tabulated (M, p).
        table: log_ratio of each pool event at each point, less its value at the centre (N, M), float32.
        share: weight of each pool event, summing to one (N,).
        theta_true: truth of the pool (p,).
        n_events: expected number of events for which the ball is 4 sigma wide.
    """

    monomials: Monomials
    points: Tensor
    table: Tensor
    share: Tensor
    terms: ExactTerms
    theta_true: Tensor
    n_events: float

    @property
    def ball(self) -> Ball:
        """Where the polynomials hold."""
        return self.monomials.ball

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the table over the pool (1, M)."""
        return self.share[None] @ self.table.double()

    def experiment_sums(self, experiments: PseudoExperiments) -> Tensor:
        """The table summed over the events of each experiment (E, M), in float64."""
        return embedding_bag(experiments.index, self.table.double(), experiments.first_rows, mode="sum")

    def problem(self, sums: Tensor, data: Summaries) -> Problem:
        """The likelihoods whose event sums at ``points`` are ``sums`` (E, M)."""
        objective = SurfaceObjective(self.monomials, self.monomials.fit(self.points, sums), data, self.terms)
        scale = self.ball.transform @ self.ball.transform.T
        return Problem(objective, self.terms, scale, newton=objective.curvature)

    def mean_fits(self, means: Tensor, n_events: Tensor, start: Tensor) -> tuple[Maxima, Tensor]:
        """Maxima of n L + log C for mean tables (E, M) and numbers of events n (E,), and the curvatures there (E, p, p).

        Auxiliary measurements are at the truth; the start is one point (p,).
        """
        data = Summaries(n_events, n_events, self.theta_true.expand(len(n_events), -1))
        problem = self.problem(means * n_events[:, None], data)
        problem = replace(problem, scale=problem.scale * (self.n_events / n_events)[:, None, None])
        maxima = problem.maximise(start.expand(len(n_events), -1), iterations=_MEAN_FIT_STEPS)
        return maxima, problem.curvature(maxima.theta)


@dataclass(frozen=True)
class SurfaceObjective:
    """ln L from polynomial coefficients (E, C), with the exact terms."""

    monomials: Monomials
    coefficients: Tensor
    data: Summaries
    terms: ExactTerms

    def __call__(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Value (e,), up to the constant at the centre, and gradient (e, p)."""
        monomials = self.monomials(theta)
        value, gradient = self.terms.with_gradient(theta, self.data[rows])
        polynomial = (monomials * self.coefficients[rows]).sum(-1)
        return value + polynomial, gradient + torch.einsum("ec,kec->ek", monomials, self._first[:, rows])

    def curvature(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Minus the Hessian (e, p, p)."""
        bend = torch.einsum("ec,klec->ekl", self.monomials(theta), self._second[:, :, rows])
        return self.terms.curvature(theta, self.data[rows]) - bend

    @cached_property
    def _first(self) -> Tensor:
        """Coefficients of the first derivatives (p, E, C)."""
        return torch.einsum("kab,eb->kea", self.monomials.slopes, self.coefficients)

    @cached_property
    def _second(self) -> Tensor:
        """Coefficients of the second derivatives (p, p, E, C)."""
        return torch.einsum("kab,leb->klea", self.monomials.slopes, self._first)


def build_surface(
    estimator: Estimator, experiments: PseudoExperiments, terms: ExactTerms, ball: Ball, *, order: int, at_least: int
) -> PoolSurface | None:
    """Tabulate the pool over a ball; None if too little of it is inside the bounds, or log_ratio is not finite there."""
    monomials = Monomials(ball, order)
    points = monomials.design(at_least)
    if len(points) < 1.5 * len(monomials):
        return None
    table = tabulate(estimator, experiments.pool.x, ball.centre, points)
    if not bool(table.isfinite().all()):
        return None
    return PoolSurface(monomials, points, table, experiments.pool_share, terms, experiments.theta_true, experiments.n_events)


def tabulate(estimator: Estimator, x: Tensor, centre: Tensor, points: Tensor) -> Tensor:
    """log_ratio of x (N, d) at points (M, p), less its value at the centre (p,): shape (N, M), float32.

    Networks are evaluated in float32, twice as fast; the exact fits that check the surface are float64.
    """
    estimator = in_float32(estimator)
    every = torch.cat([centre[None], points])
    parts = []
    with torch.no_grad():
        for part in x.split(_EVENTS_PER_TABLE_CHUNK):
            values = estimator.log_ratio_grid(part, every).cpu()
            parts.append((values[:, 1:] - values[:, :1]).float())
    return torch.cat(parts)
