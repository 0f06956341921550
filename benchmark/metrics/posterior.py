"""The posterior of every estimator, as weighted draws beside the truth.

An estimator that offers ``posterior_sample`` and ``posterior_log_prob`` is asked directly (for sets of events, if
it also has the capability ``set``). Any other has the posterior prior(theta) prod_i exp log_ratio(x_i, theta) / Z: draws from a
`Proposal`, which knows no estimator, are weighted by it. Local normalisation, a repair of fits, is not applied.

A weight that is NaN or +inf is counted (``broken``) and taken as zero: the answer is worthless there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.pairs import Pairs, Proposal, log_normal, to_theta
from touchneedle.estimators.base import Estimator, in_float32
from touchneedle.toys.base import Events, ExactToy

N_DRAWS = 64
# Evaluations of the estimator at a time: what stays in a processor's cache.
CHUNK = 2**14


@dataclass(frozen=True)
class PosteriorDraws:
    """Truth (column 0) and L draws for b pairs; every log density is up to a function of x.

    Attributes:
        u: coordinates with prior N(0, 1)^p, shape (b, 1 + L, p).
        theta: the same points, shape (b, 1 + L, p).
        log_weight: log of posterior over proposal, shape (b, 1 + L); -inf where the answer is not a number.
        log_density: log q(theta|x), shape (b, 1 + L).
        log_likelihood: log_ratio of the estimator, summed over the set, shape (b, 1 + L).
        exact: the same of the exact density, or None; shape (b, 1 + L).
        gain: log q(theta*|x) - log prior(theta*), shape (b,).
        exact_gain: the same of the exact posterior, or None; shape (b,).
        broken: share of the L draws and the truth at which the answer is NaN or +inf, shape (b,).
    """

    u: Tensor
    theta: Tensor
    log_weight: Tensor
    log_density: Tensor
    log_likelihood: Tensor
    exact: Tensor | None
    gain: Tensor
    exact_gain: Tensor | None
    broken: Tensor

    @property
    def effective_draws(self) -> Tensor:
        """(sum w)^2 / sum w^2 of the L draws, shape (b,); 0 where none has any weight."""
        return effective_size(self.log_weight[:, 1:])


def is_direct(estimator: Estimator, n_set: int) -> bool:
    """Whether the estimator is asked for its posterior itself."""
    own = {"posterior_sample", "posterior_log_prob"} <= estimator.capabilities
    return own and (n_set == 1 or "set" in estimator.capabilities)


def posterior_draws(context: EvaluationContext, pairs: Pairs, proposal: Proposal) -> Iterator[tuple[slice, PosteriorDraws]]:
    """The posterior of consecutive chunks of pairs, each with the slice of pairs that it is of."""
    n_set = pairs.x.shape[1]
    size = max(1, CHUNK // ((1 + N_DRAWS) * n_set))
    ask = _direct if is_direct(context.estimator, n_set) else _weighted
    for start in range(0, len(pairs), size):
        part = slice(start, min(start + size, len(pairs)))
        chunk = Pairs(pairs.u[part], pairs.theta[part], pairs.x[part])
        with torch.no_grad():
            yield part, ask(context, chunk, proposal, start)


def _weighted(context: EvaluationContext, pairs: Pairs, proposal: Proposal, start: int) -> PosteriorDraws:
    generator = context.generator("draws", pairs.x.shape[1], start)
    u = torch.cat([pairs.u[:, None], proposal.sample(pairs.x, N_DRAWS, generator)], 1)
    theta = torch.cat([pairs.theta[:, None], to_theta(context, u[:, 1:])], 1)
    # Weights of some draws have no use for more digits.
    answer, broken = _finite_or_nothing(_likelihood(in_float32(context.estimator), pairs.x, theta))
    importance = log_normal(u) - proposal.log_prob(u, pairs.x)
    exact = _exact(context, pairs.x, theta)
    return PosteriorDraws(
        u=u,
        theta=theta,
        log_weight=answer + importance,
        log_density=answer + context.toy.spec.parameters.log_prior(theta),
        log_likelihood=answer,
        exact=exact,
        gain=_gain(answer, importance),
        exact_gain=None if exact is None else _gain(exact, importance),
        broken=broken,
    )


def _direct(context: EvaluationContext, pairs: Pairs, proposal: Proposal, start: int) -> PosteriorDraws:
    estimator, space = context.estimator, context.toy.spec.parameters
    generator = context.generator("posterior", pairs.x.shape[1], start)
    drawn = estimator.posterior_sample(pairs.x, N_DRAWS, generator).double()
    theta = torch.cat([pairs.theta[:, None], drawn], 1)
    # A draw outside the bounds has no prior there: it counts as a draw, and every exact density is zero.
    inside = ((theta >= space.low) & (theta <= space.high)).all(-1)
    held = theta.clamp(space.low, space.high)
    u = torch.cat([pairs.u[:, None], space.to_normal(held[:, 1:])], 1)
    sets = pairs.x.repeat_interleave(1 + N_DRAWS, 0)
    log_density, broken = _finite_or_nothing(estimator.posterior_log_prob(theta.flatten(0, 1), sets).reshape(theta.shape[:2]))
    log_prior = space.log_prior(held)
    exact = _exact(context, pairs.x, held)
    return PosteriorDraws(
        u=u,
        theta=theta,
        log_weight=torch.zeros_like(log_density),
        log_density=log_density,
        log_likelihood=log_density - log_prior,
        exact=None if exact is None else exact.where(inside, -math.inf),
        gain=log_density[:, 0] - log_prior[:, 0],
        exact_gain=_exact_gain(context, pairs, proposal, start),
        broken=broken,
    )


def _exact_gain(context: EvaluationContext, pairs: Pairs, proposal: Proposal, start: int) -> Tensor | None:
    generator = context.generator("draws", pairs.x.shape[1], start)
    u = torch.cat([pairs.u[:, None], proposal.sample(pairs.x, N_DRAWS, generator)], 1)
    theta = torch.cat([pairs.theta[:, None], to_theta(context, u[:, 1:])], 1)
    exact = _exact(context, pairs.x, theta)
    return None if exact is None else _gain(exact, log_normal(u) - proposal.log_prob(u, pairs.x))


def _likelihood(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """log_ratio summed over each set, up to a function of x, shape (b, m).

    A density is taken itself where it is one by construction: it is defined where the one at nominal vanishes. One that has
    to be divided by its integral at every theta is too dear for a hundred thousand of them.
    """
    if not estimator.additive and x.shape[1] > 1:
        return torch.stack([_set_likelihood(estimator, *pair) for pair in zip(x, theta, strict=True)])
    density = estimator.normalised and "log_prob" in estimator.capabilities
    return _summed(estimator.log_prob if density else estimator.relative_log_prob, x, theta)


def _exact(context: EvaluationContext, x: Tensor, theta: Tensor) -> Tensor | None:
    return _summed(context.toy.log_prob, x, theta) if isinstance(context.toy, ExactToy) else None


def _summed(log_density: Callable[[Tensor, Tensor], Tensor], x: Tensor, theta: Tensor) -> Tensor:
    """Sum over the events of each set in x (b, n_set, d) at theta (b, m, p): shape (b, m)."""
    (b, n_set, _), m = x.shape, theta.shape[1]
    points = theta.flatten(0, 1).repeat_interleave(n_set, 0)
    return log_density(x.repeat_interleave(m, 0).flatten(0, 1), points).reshape(b, m, n_set).sum(-1).cpu()


def _set_likelihood(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """A likelihood that is no sum over events, of one set x (n_set, d) at theta (m, p): shape (m,)."""
    events = Events(x, theta[:1].expand(len(x), -1), torch.ones(len(x), dtype=torch.float64))
    return estimator.log_likelihood_ratio(events, theta).cpu()


def _finite_or_nothing(answer: Tensor) -> tuple[Tensor, Tensor]:
    """-inf in place of NaN and +inf, and their share in each row."""
    wrong = torch.isnan(answer) | torch.isposinf(answer)
    return answer.masked_fill(wrong, -math.inf), wrong.double().mean(-1)


def _gain(log_likelihood: Tensor, importance: Tensor) -> Tensor:
    """log r(theta*) - log E_prior[r], shape (b,), the logarithm's bias -var / (2 mean^2) taken off."""
    log_terms = (log_likelihood + importance)[:, 1:]
    size = effective_size(log_terms)
    log_mean = log_terms.logsumexp(-1) - math.log(log_terms.shape[-1])
    # var(mean) / mean^2 = 1 / size - 1 / L
    correction = 0.5 * (1 / size.clamp_min(1) - 1 / log_terms.shape[-1])
    return log_likelihood[:, 0] - (log_mean + correction)


def effective_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 along the last dimension; 0 where all weights are zero."""
    size = (2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)).exp()
    return torch.nan_to_num(size, nan=0.0)
