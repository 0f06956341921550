"""Pools of events at theta, from which pseudo-experiments are drawn, and the error that all of them share.

A pool of N events fluctuates itself: it moves the fits of all experiments of n events by sqrt(n / N) of their sigma. To
first order that is its mean score. So events are given weights w exp(-lambda . score) with which the mean score is that of
a much larger sample (calibration weighting, Deville and Saerndal 1992, J. Am. Stat. Assoc. 87, 376), which costs one
gradient an event, where the fits need log_ratio at dozens of points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, in_float32
from touchneedle.inference.events_at import ratio_and_score
from touchneedle.toys.base import Events

_NEWTON_STEPS = 10
_CONVERGED = 1e-10


class Simulator(Protocol):
    """Draws one event per row of theta (n, p): ``toy.sample`` is one."""

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Events:
        """Events of weight 1, or weighted ones."""
        ...


@dataclass(frozen=True)
class Pool:
    """Weighted events at one theta.

    Attributes:
        effective: effective size of the sample that fixes their mean score; infinite where the model itself says it.
    """

    events: Events
    effective: float

    def error(self, n_events: float) -> float:
        """The shift that all experiments of n events share, in sigma of one."""
        return math.sqrt(n_events / self.effective)


def simulated_pool(estimator: Estimator, simulator: Simulator, theta: Tensor, size: int, larger: int, generator: torch.Generator) -> Pool:
    """``size`` events of a simulator at theta (p,), weighted to the mean score of ``larger`` ones of which they are a part."""
    events = simulator(theta.expand(max(size, larger), -1), generator=generator)
    pool = events[:size]
    if larger <= size:
        return Pool(pool, effective_size(pool.weight))
    score = _scores(estimator, events, theta)
    weight = events.weight.double()
    tilted = _tilted(pool, score[:size], (weight @ score) / weight.sum())
    return Pool(pool, effective_size(pool.weight)) if tilted is None else Pool(tilted, effective_size(weight))


def model_pool(estimator: Estimator, reference: Events, theta: Tensor) -> Pool:
    """Reference events (at theta_0) reweighted to theta (p,) by exp(log_ratio); mean score 0 if the model is normalised.

    Raises `InputError` as `reweighted` does.
    """
    pool = reweighted(estimator, reference, theta)
    plain = Pool(pool, effective_size(pool.weight))
    if not estimator.normalised:
        return plain
    tilted = _tilted(pool, _scores(estimator, pool, theta), torch.zeros_like(theta))
    return plain if tilted is None else Pool(tilted, math.inf)


def reweighted(estimator: Estimator, reference: Events, theta: Tensor) -> Events:
    """Reference events (at theta_0) as the model expects them at theta (p,): weights times exp(log_ratio).

    Raises `InputError` where a log_ratio is not finite or there are no events.
    """
    if not len(reference):
        raise InputError("reference events: expected events at theta_0; got none")
    with torch.no_grad():
        weight = reference.weight.double() * estimator.log_ratio(reference.x, theta).exp()
    wrong = int((~weight.isfinite()).sum())
    if wrong:
        place = ", ".join(f"{value:g}" for value in theta.tolist())
        raise InputError(f"reference events: expected a finite log_ratio at theta = ({place}); {wrong} are not")
    return Events(x=reference.x, theta=theta.expand(len(reference), -1), weight=weight)


def effective_size(weight: Tensor) -> float:
    """Kish effective size of a weighted sample, (sum w)^2 / sum w^2."""
    weight = weight.double()
    return float(weight.sum() ** 2 / weight.square().sum())


def _scores(estimator: Estimator, events: Events, theta: Tensor) -> Tensor:
    # A mean over events has no use for more digits.
    return ratio_and_score(in_float32(estimator), events.x, theta)[1]


def _tilted(pool: Events, score: Tensor, target: Tensor) -> Events | None:
    """The pool with weights w exp(-lambda . (score - target)), whose mean score (n, p) is ``target`` (p,); None if there is no lambda."""
    weight, away = pool.weight.double(), score - target
    spread = away.square().mean(0).sqrt()
    moves = spread != 0
    away = away[:, moves] / spread[moves]
    if not bool(moves.any()):
        return pool
    if not bool(away.isfinite().all()):
        return None
    tilt = away.new_zeros(away.shape[1])
    for _ in range(_NEWTON_STEPS):
        now = weight * torch.exp(-away @ tilt)
        mean = (now @ away) / now.sum()
        if float(mean.abs().max()) < _CONVERGED:
            return pool.with_weight(now * (weight.sum() / now.sum()))
        information = away.T @ (now[:, None] * away) / now.sum()
        tilt = tilt + torch.linalg.lstsq(information, mean[:, None]).solution[:, 0]
    return None
