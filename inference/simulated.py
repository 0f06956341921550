"""Pseudo-experiments of a likelihood: data sets as the experiment would give them at some theta, and their fits.

Events come from a simulator, or from reference events (at theta_0) that the model itself reweights by
exp(log_ratio). Their number is Poisson around the rate, auxiliary measurements are redrawn around theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import FitOptions, PseudoFits, fit_pseudo_experiments
from touchneedle.toys.base import Events

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

POOL_PER_EVENT = 50
SMALLEST_POOL = 20_000
_SEEDS = 2**31
# A boundary cuts the ball of the surface in half; the check against exact fits decides whether it holds.
_SHARE_AT_A_BOUNDARY = 0.3


class Simulator(Protocol):
    """Draws one event per row of theta (n, p): ``toy.sample`` is one."""

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Events:
        """Events of weight 1, or weighted ones."""
        ...


@dataclass(frozen=True)
class Simulation:
    """How pseudo-experiments are made and fitted.

    Attributes:
        source: a simulator, or reference events at theta_0 to be reweighted by the model.
        n_pseudo: pseudo-experiments at each theta.
        n_events: expected events of a likelihood without rates.
        n_pool: events that a simulator draws at each theta; 50 per expected event by default.
        starts: more starting points (s, p), where ln L has several maxima.
        options: how they are fitted.
        seed: the same seed gives the same pseudo-experiments.
    """

    source: Simulator | Events
    n_pseudo: int = 1_000
    n_events: float | None = None
    n_pool: int | None = None
    starts: Tensor | None = None
    options: FitOptions = field(default_factory=lambda: FitOptions(min_share_in_bounds=_SHARE_AT_A_BOUNDARY))
    seed: int = 0

    def generator(self, stream: int) -> torch.Generator:
        """The generator of one of many independent streams."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + stream) % _SEEDS)

    def draw(self, likelihood: Likelihood, theta: Tensor, stream: int = 0) -> PseudoExperiments:
        """Pseudo-experiments at theta (p,); raises `InputError` outside the bounds."""
        theta = theta.double()
        likelihood.parameters.check(theta)
        expected, generator = expected_events(likelihood, theta, self.n_events), self.generator(stream)
        pool = self.pool(likelihood, theta, expected, generator)
        return draw_pseudo_experiments(pool, theta, expected, self.n_pseudo, likelihood.parameters, generator)

    def pool(self, likelihood: Likelihood, theta: Tensor, expected: float, generator: torch.Generator) -> Events:
        """Events at theta (p,) from which data sets of ``expected`` events are drawn."""
        if isinstance(self.source, Events):
            return reweighted(likelihood, self.source, theta)
        size = self.n_pool or max(SMALLEST_POOL, math.ceil(POOL_PER_EVENT * expected))
        return self.source(theta.expand(size, -1), generator=generator)

    def fit(self, likelihood: Likelihood, theta: Tensor, tested: Tensor | None = None, stream: int = 0) -> SimulatedFits:
        """Fit pseudo-experiments at theta (p,), profiled at the parameters of interest of ``tested`` (p,), by default theta."""
        experiments = self.draw(likelihood, theta, stream)
        return fit_simulated(likelihood, experiments, tested=tested, starts=self.starts, options=self.options)


@dataclass(frozen=True)
class SimulatedFits:
    """Fitted pseudo-experiments.

    Attributes:
        fits: of all of them, with t at the tested point.
        pool_error: error of the mean that all of them share because their pool is finite, in sigma of one experiment:
            sqrt(n / effective size of the pool).
    """

    experiments: PseudoExperiments
    fits: PseudoFits
    pool_error: float

    @property
    def failed(self) -> int:
        """Fits that did not converge."""
        return int((~self.fits.valid).sum())


def fit_simulated(
    likelihood: Likelihood,
    experiments: PseudoExperiments,
    *,
    tested: Tensor | None = None,
    starts: Tensor | None = None,
    options: FitOptions | None = None,
) -> SimulatedFits:
    """Fit all pseudo-experiments by a likelihood; see `fit_pseudo_experiments`, whose exact fits are not limited here."""
    options = replace(options or FitOptions(), max_exact=len(experiments))
    if starts is not None:
        options = replace(options, method="batched")
    fits = fit_pseudo_experiments(
        likelihood.estimator, experiments, rates=likelihood.rates, options=options, tested=tested, starts=starts
    )  # fmt: skip
    return SimulatedFits(experiments, fits, math.sqrt(experiments.n_events / experiments.effective_pool))


def expected_events(likelihood: Likelihood, theta: Tensor, n_events: float | None = None) -> float:
    """Expected events at theta (p,): the rate, or ``n_events`` without rates; raises `InputError` where there is neither."""
    if likelihood.rates is not None:
        return float(likelihood.rates(theta[None].double()).sum())
    if n_events is None:
        raise InputError("pseudo-data: expected n_events, the number of expected events, for a likelihood without rates; got none")
    return float(n_events)


def reweighted(likelihood: Likelihood, reference: Events, theta: Tensor) -> Events:
    """Reference events (at theta_0) as the model expects them at theta (p,): weights times exp(log_ratio).

    Raises `InputError` where a log_ratio is not finite or there are no events.
    """
    if not len(reference):
        raise InputError("reference events: expected events at theta_0; got none")
    with torch.no_grad():
        log_ratio = likelihood.estimator.log_ratio(reference.x, theta)
    weight = reference.weight.double() * log_ratio.exp()
    if not bool(weight.isfinite().all()):
        raise InputError(
            f"reference events: expected a finite log_ratio at theta = {_text(theta)}; {int((~weight.isfinite()).sum())} are not"
        )
    return Events(x=reference.x, theta=theta.expand(len(reference), -1), weight=weight)


def _text(theta: Tensor) -> str:
    return "(" + ", ".join(f"{value:g}" for value in theta.tolist()) + ")"
