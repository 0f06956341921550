"""Pseudo-experiments of a likelihood: data sets as the experiment would give them at some theta, and their fits.

Events come from a simulator, or from reference events (at theta_0) that the model itself reweights by
exp(log_ratio). Their number is Poisson around the rate, auxiliary measurements and control regions
are redrawn around theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.inference.fit_options import FitOptions
from touchneedle.inference.likelihood import Likelihood
from touchneedle.inference.pools import Pool, Simulator, model_pool, simulated_pool
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import PseudoFits, fit_pseudo_experiments
from touchneedle.toys.base import Events

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

POOL_PER_EVENT = 20
SMALLEST_POOL = 10_000
# The larger sample, of which the pool has the mean score.
LARGER = 10
_SEEDS = 2**31
# A boundary cuts the ball of the surface in half; the check against exact fits decides whether it holds.
_SHARE_AT_A_BOUNDARY = 0.3
# At every point of a scan, so that fewer do.
_CHECKED = 8
# In sigma. A flow's ln L has ripples that a surface smooths; quantiles of t stand that (a spline flow of 20,000 events: t
# scatters by 0.23 and is 0.00 +- 0.04 off, where a third of the exact fits do not converge).
_RIPPLES = 0.25

# Of up to 3 parameters order 4 takes a third longer, is five times closer for a ratio, and holds where ripples make order 3 fail.
DEFAULTS = FitOptions(
    few_events=math.inf, min_share_in_bounds=_SHARE_AT_A_BOUNDARY, n_check=_CHECKED, max_check_rms=_RIPPLES, give_up=True
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """How pseudo-experiments are made and fitted.

    Attributes:
        source: a simulator, or reference events at theta_0 to be reweighted by the model.
        n_pseudo: pseudo-experiments at each theta.
        n_events: expected events of a likelihood without rates.
        n_pool: events of a simulator that the fits share at each theta; 20 per expected event by default, and 10,000 at the least.
        starts: more starting points (s, p), where ln L has several maxima.
        options: how they are fitted.
        seed: the same seed gives the same pseudo-experiments.
    """

    source: Simulator | Events
    n_pseudo: int = 1_000
    n_events: float | None = None
    n_pool: int | None = None
    starts: Tensor | None = None
    options: FitOptions = DEFAULTS
    seed: int = 0

    def generator(self, stream: int) -> torch.Generator:
        """The generator of one of many independent streams."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + stream) % _SEEDS)

    def pool(self, likelihood: Likelihood, theta: Tensor, stream: int = 0) -> Pool:
        """Events at theta (p,) from which data sets are drawn."""
        if isinstance(self.source, Events):
            return model_pool(likelihood.estimator, self.source, theta)
        per_event = math.ceil(POOL_PER_EVENT * expected_events(likelihood, theta, self.n_events))
        size = self.n_pool or max(SMALLEST_POOL, per_event)
        return simulated_pool(likelihood.estimator, self.source, theta, size, LARGER * size, self.generator(2 * stream))

    def fit(self, likelihood: Likelihood, theta: Tensor, tested: Tensor | None = None, stream: int = 0) -> SimulatedFits:
        """Fit pseudo-experiments at theta (p,), profiled at the parameters of interest of ``tested`` (p,), by default theta.

        Raises `InputError` for theta outside the bounds, and for a likelihood that is no sum over events of one estimator.
        """
        _check(likelihood)
        theta = theta.double()
        likelihood.parameters.check(theta)
        pool, expected = self.pool(likelihood, theta, stream), expected_events(likelihood, theta, self.n_events)
        generator = self.generator(2 * stream + 1)
        experiments = draw_pseudo_experiments(
            pool.events, theta, expected, self.n_pseudo, likelihood.parameters, generator, likelihood.control
        )  # fmt: skip
        fits = fit_simulated(likelihood, experiments, tested=tested, starts=self.starts, options=self.options)
        return SimulatedFits(experiments, fits, pool.error(expected))


@dataclass(frozen=True)
class SimulatedFits:
    """Fitted pseudo-experiments.

    Attributes:
        fits: of all of them, with t at the tested point.
        pool_error: the shift that all of them share because their pool is finite, in sigma of one.
    """

    experiments: PseudoExperiments
    fits: PseudoFits
    pool_error: float

    @property
    def kept(self) -> Tensor:
        """Those that mean something (E,); see `meaningful`."""
        return meaningful(self.fits)

    @property
    def failed(self) -> int:
        """Number of the others."""
        return int((~self.kept).sum())


def fit_simulated(
    likelihood: Likelihood,
    experiments: PseudoExperiments,
    *,
    tested: Tensor | None = None,
    starts: Tensor | None = None,
    options: FitOptions | None = None,
) -> PseudoFits:
    """Fit all pseudo-experiments by a likelihood; see `fit_pseudo_experiments`, whose exact fits are not limited here."""
    options = replace(options or DEFAULTS, max_exact=len(experiments))
    if starts is not None:
        options = replace(options, method="batched")
    return fit_pseudo_experiments(
        likelihood.estimator, experiments, rates=likelihood.rates, options=options, tested=tested, starts=starts
    )  # fmt: skip


def meaningful(fits: PseudoFits) -> Tensor:
    """Fits that converged where the likelihood is known (E,).

    A ratio with a local normalisation is normalised inside a ball alone; beyond, ln L may rise without end.
    """
    local = fits.terms.normalisation
    if local is None or local.ball is None:
        return fits.converged
    return fits.converged & local.ball.contains(fits.theta)


def expected_events(likelihood: Likelihood, theta: Tensor, n_events: float | None = None) -> float:
    """Expected events at theta (p,): the rate, or ``n_events`` without rates; raises `InputError` where there is neither."""
    if likelihood.rates is not None:
        return float(likelihood.rates(theta[None].double()).sum())
    if n_events is None:
        raise InputError("pseudo-data: expected n_events, the number of expected events, for a likelihood without rates; got none")
    return float(n_events)


def _check(likelihood: Likelihood) -> None:
    if not isinstance(likelihood, Likelihood):
        raise InputError(
            f"pseudo-experiments: expected a Likelihood of one estimator (a mixture of processes is one); got {type(likelihood).__name__}: "
            "use one of its members"
        )
