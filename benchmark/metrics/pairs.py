"""Pairs (theta*, x) from prior and simulator, and where to look for theta given x: what calibration tests start from.

Both are the same for every estimator, so that what two of them say of a pair is paired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import FiniteToy, SimulatedToy

# Pairs that the proposal is learned from, and events of a finite pool that sets are drawn from.
N_LEARN = 4_000
POOL = 20_000
# Share of proposals from the prior, which bounds the weights by the posterior over this share of the prior.
DEFENCE = 0.3
# Beyond that many features, products of two are left out.
MANY_FEATURES = 8
CLIP = 5.0


@dataclass(frozen=True)
class Pairs:
    """N parameter points from the prior, each with a set of events drawn at it.

    Attributes:
        u: coordinates with prior N(0, 1)^p, shape (N, p).
        theta: the same points, shape (N, p).
        x: events, shape (N, n_set, d).
    """

    u: Tensor
    theta: Tensor
    x: Tensor

    def __len__(self) -> int:
        return len(self.u)


def draw_pairs(context: EvaluationContext, n: int, n_set: int, purpose: str) -> Pairs:
    """``n`` pairs with sets of ``n_set`` events; raises `InputError` where events carry signs or weights."""
    space = context.toy.spec.parameters
    generator = context.generator("pairs", purpose, n_set)
    u = torch.randn(n, len(space), generator=generator, dtype=torch.float64)
    theta = to_theta(context, u)
    x = draw_events(context, theta.repeat_interleave(n_set, 0), generator)
    return Pairs(u, theta, x.reshape(n, n_set, -1))


def to_theta(context: EvaluationContext, u: Tensor) -> Tensor:
    """Parameters of u (..., p), held inside the bounds."""
    space = context.toy.spec.parameters
    return space.from_normal(u).clamp(space.low, space.high)


def draw_events(context: EvaluationContext, theta: Tensor, generator: torch.Generator) -> Tensor:
    """One unweighted event per row of theta (n, p): shape (n, d)."""
    toy = context.toy
    if isinstance(toy, FiniteToy):
        return _resample(toy, theta, generator)
    if not isinstance(toy, SimulatedToy):
        raise InputError(f"toy {toy.spec.name}: calibration needs events; it can neither be sampled nor reweighted")
    events = toy.sample(theta, generator=generator)
    if bool((events.weight != events.weight[0]).any()) or bool(events.weight[0] <= 0):
        raise InputError(f"toy {toy.spec.name}: its events carry weights or signs, so that none can be drawn from p(x|theta)")
    return events.x


def _resample(toy: FiniteToy, theta: Tensor, generator: torch.Generator) -> Tensor:
    """Events of the test pool, drawn by their weights at each distinct theta, with replacement."""
    pool = toy.pool("test")
    pool = pool[torch.randperm(len(pool), generator=generator)[:POOL]]
    points, member = torch.unique_consecutive(theta, dim=0, return_inverse=True)
    counts = torch.bincount(member)
    chosen = []
    for point, count in zip(points, counts.tolist(), strict=True):
        weight = toy.reweight(pool, point)
        if bool((weight < 0).any()):
            raise InputError(f"toy {toy.spec.name}: events of negative weight cannot be drawn from p(x|theta)")
        cumulative = weight.double().cumsum(0)
        drawn = cumulative[-1] * torch.rand(count, generator=generator, dtype=torch.float64)
        chosen.append(torch.searchsorted(cumulative, drawn, right=True).clamp_max(len(pool) - 1))
    return toy.at(pool[torch.cat(chosen)], theta).x


class Proposal:
    """Where theta may be, given x: q(u|x) = (1 - 0.3) N(A phi(x), S) + 0.3 N(0, 1)^p.

    A is the least-squares fit of u on the summaries phi(x) (means over the set of features, their squares
    and products), S the covariance of its residuals: the exact posterior of a linear Gaussian problem, and
    in any other a guess that knows no estimator. What it misses, the prior covers.
    """

    def __init__(self, pairs: Pairs) -> None:
        values = pairs.x.double().flatten(0, 1)
        self._mean = values.mean(0)
        std = values.std(0)
        self._std = std.where(std > 0, torch.ones_like(std))
        summaries = self._summaries(pairs.x)
        # A trace of ridge, since constant features leave columns of zeros.
        normal = summaries.T @ summaries + 1e-6 * len(pairs) * torch.eye(summaries.shape[1], dtype=torch.float64)
        self._coefficients = torch.linalg.solve(normal, summaries.T @ pairs.u)
        residual = pairs.u - summaries @ self._coefficients
        self._scale = torch.linalg.cholesky(residual.T @ residual / len(pairs))

    @classmethod
    def learn(cls, context: EvaluationContext, n_set: int) -> Proposal:
        """From 4,000 pairs of their own."""
        return cls(draw_pairs(context, N_LEARN, n_set, "proposal"))

    def sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """``n`` draws of u for each set in x (b, n_set, d): shape (b, n, p)."""
        noise = torch.randn(len(x), n, len(self._scale), generator=generator, dtype=torch.float64)
        from_prior = torch.rand(len(x), n, 1, generator=generator, dtype=torch.float64) < DEFENCE
        return torch.where(from_prior, noise, self.prediction(x)[:, None] + noise @ self._scale.T)

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        """Log density of u (b, m, p), shape (b, m)."""
        near = log_normal(self.whiten(u, x)) - self._scale.diagonal().log().sum()
        return torch.logaddexp(near + math.log1p(-DEFENCE), log_normal(u) + math.log(DEFENCE))

    def prediction(self, x: Tensor) -> Tensor:
        """Least-squares guess of u, shape (b, p)."""
        return self._summaries(x) @ self._coefficients

    def whiten(self, u: Tensor, x: Tensor) -> Tensor:
        """u (b, m, p) relative to the guess, in units of the guess's own errors: shape (b, m, p)."""
        centred = u - self.prediction(x)[:, None]
        return torch.linalg.solve_triangular(self._scale, centred.flatten(0, 1).T, upper=False).T.reshape(u.shape)

    def _summaries(self, x: Tensor) -> Tensor:
        z = ((x.double() - self._mean) / self._std).clamp(-CLIP, CLIP)
        parts = [torch.ones(len(x), 1, dtype=torch.float64), z.mean(1), (z**2).mean(1)]
        if z.shape[-1] <= MANY_FEATURES:
            row, column = torch.triu_indices(z.shape[-1], z.shape[-1], 1)
            parts.append((z[..., row] * z[..., column]).mean(1))
        return torch.cat(parts, -1)


def log_normal(z: Tensor) -> Tensor:
    """Log density of N(0, 1)^p at z (..., p)."""
    return -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
