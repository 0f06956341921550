"""n*: the number of events up to which an estimator's bias stays below 0.2 sigma.

On the pool of one theta point, let L_q be the mean log_ratio of the estimator and L_p that of the oracle, both
as surfaces. For every n, theta_q(n) = argmax [n L_q + log C] is the estimator's fit of an average data set of n
events (auxiliary measurements at the truth), theta_p(n) the oracle's, and

    bias(n) = [theta_q(n) - theta_p(n)] / sigma_p(n),        n* = smallest n with |bias(n)| >= 0.2,

sigma_p(n) from the oracle's Hessian with constraints. Without constraints theta_q does not depend on n and bias
grows as sqrt(n); a constraint holds nuisances at small n, so the curve is followed on a grid of n.

Fluctuations of a data set cancel in it (theta_q(n) is that of the average one); the bias measured with
pseudo-experiments overrules it where it is larger (`reconcile`). The error is that of the test pool alone, by
bootstrap; another training seed gives another n*. It is trusted where both fits
lie inside their surfaces' balls, and where the pool's own noise of bias(n) is below 0.1 sigma, so that a crossing
is at least two standard errors away from none. Where that range ends without a crossing, its end is a lower
limit (censored above); where already its first n has crossed, an upper limit (censored below).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from touchneedle.inference.maximise import covariance_of, sigma_of
from touchneedle.inference.surface import PoolSurface

THRESHOLD = 0.2
MAX_NOISE = 0.1
MAX_EVENTS = 1_000_000
_POINTS_PER_DECADE = 6
_DECADES = 6

Censored = Literal["above", "below"]


@dataclass(frozen=True)
class NStar:
    """n* of one parameter; ``censored`` says that it lies above or below ``value``."""

    value: float
    stderr: float
    censored: Censored | None


@dataclass(frozen=True)
class BiasCurve:
    """Bias against the number of events, for the pool (first) and its bootstrap replicas.

    Attributes:
        n_events: grid (g,).
        bias: in oracle sigma (1 + B, g, p); NaN where no surface holds.
    """

    n_events: Tensor
    bias: Tensor

    @property
    def noise(self) -> Tensor:
        """Standard deviation of bias(n) over the replicas (g, p); infinite where most of them left the ball."""
        replicas = self.bias[1:]
        known = replicas.isfinite()
        mean = replicas.nan_to_num().sum(0) / known.sum(0)
        variance = torch.where(known, (replicas - mean).square(), 0.0).sum(0) / (known.sum(0) - 1)
        return torch.where(2 * known.sum(0) > len(replicas), variance.sqrt(), torch.inf)


def bias_curve(pairs: Sequence[tuple[PoolSurface, PoolSurface | None]], *, replicas: int, generator: torch.Generator) -> BiasCurve:
    """Bias(n) from surfaces of the same pool at several n_events, each paired with the oracle's.

    The pair with the largest n_events (the finest) whose balls hold both fits is used at each n. Where the
    oracle's is None, the truth and the estimator's own sigma take its place.
    """
    n_events = torch.logspace(0, _DECADES, _DECADES * _POINTS_PER_DECADE + 1, dtype=torch.float64)
    finest_first = sorted(pairs, key=lambda pair: -pair[0].n_events)
    share = pairs[0][0].share
    each = torch.stack([_curve(own, exact, share[None], n_events)[0] for own, exact in finest_first])
    holds = each.isfinite().all(-1)
    chosen = torch.where(holds.any(0), holds.int().argmax(0), -1)
    stop = _last_useful(each, chosen, pairs[0][0].terms.parameters.interest)
    bias = torch.full((1 + replicas, stop, each.shape[-1]), torch.nan, dtype=torch.float64)
    shares = bootstrap_shares(share, replicas, generator)
    for i, (own, exact) in enumerate(finest_first):
        columns = (chosen[:stop] == i).nonzero().flatten()
        if len(columns):
            bias[:, columns] = _curve(own, exact, shares, n_events[columns])
    return BiasCurve(n_events[:stop], bias)


def n_star(curve: BiasCurve, column: int) -> NStar:
    """n* of one parameter: the first crossing, with half the central 68 % of the replicas as standard error."""
    bias, noise = curve.bias[:, :, column].abs(), curve.noise[:, column]
    noisy = (~(noise < MAX_NOISE) & bias[0].isfinite()).nonzero().flatten()
    stop = int(noisy[0]) if len(noisy) else len(noise)
    value, censored = _crossing(curve.n_events[:stop], bias[0, :stop])
    replicas = torch.tensor([_crossing(curve.n_events[:stop], row[:stop])[0] for row in bias[1:]], dtype=torch.float64)
    low, high = torch.nanquantile(replicas, torch.tensor([0.16, 0.84], dtype=torch.float64)).tolist()
    return NStar(value, 0.5 * (high - low), censored)


def n_star_by_scaling(n_events: float, bias: float, stderr: float) -> NStar:
    """n* from one measured bias (in sigma) and its error, by bias ~ sqrt(n); for estimators without a surface.

    A bias within two standard errors of zero gives a lower limit.
    """
    if not abs(bias) > 2 * stderr:
        limit = n_events * (THRESHOLD / (abs(bias) + 2 * stderr)) ** 2
        return NStar(min(limit, MAX_EVENTS), 0.0, "above")
    value = n_events * (THRESHOLD / bias) ** 2
    if value < 1:
        return NStar(1.0, 0.0, "below")
    return NStar(value, value * 2 * stderr / abs(bias), None)


def reconcile(result: NStar | None, measured: Sequence[tuple[float, float, float]]) -> tuple[NStar, str]:
    """n* from the surfaces (if any) and from pseudo-experiments (n_events, bias, stderr), and which decided.

    The average data set may fit well while single ones do not (a likelihood that is wrong far from its maximum
    pulls some fits away). So a bias measured above 0.2 by two standard errors at an n below the surfaces' n*
    overrules it: n* is then at most that n. Without surfaces n* is scaled from the n nearest to it.
    """
    if result is not None and math.isfinite(result.value):
        for n, bias, stderr in sorted(measured):
            if n < result.value and abs(bias) - 2 * stderr >= THRESHOLD:
                return NStar(n, 0.0, "below"), "measured"
        return result, "surface"
    scaled = [(n, n_star_by_scaling(n, bias, stderr)) for n, bias, stderr in measured if math.isfinite(bias + stderr)]
    if not scaled:
        return NStar(math.nan, math.nan, None), "scaling"
    return min(scaled, key=lambda pair: abs(math.log(pair[1].value / pair[0])))[1], "scaling"


def bootstrap_shares(share: Tensor, replicas: int, generator: torch.Generator) -> Tensor:
    """The pool's event shares (N,) and their bootstrap replicas by Poisson counts: (1 + replicas, N)."""
    counts = torch.poisson(torch.ones(replicas, len(share), dtype=torch.float64), generator=generator)
    resampled = counts * share
    return torch.cat([share[None], resampled / resampled.sum(-1, keepdim=True)])


def _last_useful(each: Tensor, chosen: Tensor, interest: Sequence[int]) -> int:
    """How much of the grid the replicas need: to well beyond the last crossing, or to where no surface holds."""
    valid = (chosen >= 0).nonzero().flatten()
    if not len(valid):
        return 1
    bias = each[chosen.clamp_min(0), torch.arange(len(chosen))].abs()
    crossings = [((bias[:, column] >= THRESHOLD) & (chosen >= 0)).nonzero().flatten() for column in interest]
    if not all(len(found) for found in crossings):
        return int(valid[-1]) + 1
    return min(int(valid[-1]) + 1, max(int(found[0]) for found in crossings) + 1 + _POINTS_PER_DECADE)


def _curve(surface: PoolSurface, reference: PoolSurface | None, shares: Tensor, n_events: Tensor) -> Tensor:
    """Bias (b, g, p) in reference sigma, NaN where a fit leaves its ball."""
    theta, sigma, valid = _fits(surface, shares, n_events)
    centre = surface.theta_true
    if reference is not None:
        centre, sigma, also = _fits(reference, shares, n_events)
        valid = valid & also
    bias = torch.where(valid[:, None], (theta - centre) / sigma, torch.nan)
    return bias.reshape(len(shares), len(n_events), -1)


def _fits(surface: PoolSurface, shares: Tensor, n_events: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fits (b g, p), their sigma (b g, p) and validity (b g,)."""
    means = (shares @ surface.table.double()).repeat_interleave(len(n_events), 0)
    maxima, curvature = surface.mean_fits(means, n_events.repeat(len(shares)), surface.ball.centre)
    sigma = sigma_of(covariance_of(curvature))
    return maxima.theta, sigma, maxima.converged & surface.ball.holds(maxima.theta) & sigma.isfinite().all(-1)


def _crossing(n_events: Tensor, bias: Tensor) -> tuple[float, Censored | None]:
    """Where |bias| (g,) first reaches the threshold, interpolated in log n and log |bias|; NaN is skipped."""
    known = bias.isfinite()
    n_events, bias = n_events[known], bias[known]
    if not len(bias):
        return float("nan"), None
    crossed = (bias >= THRESHOLD).nonzero().flatten()
    if not len(crossed):
        return float(n_events[-1]), "above"
    i = int(crossed[0])
    if i == 0:
        return float(n_events[0]), "below"
    low, high = bias[i - 1].clamp_min(1e-12).log(), bias[i].log()
    fraction = (torch.tensor(THRESHOLD).log() - low) / (high - low)
    return float(torch.lerp(n_events[i - 1].log(), n_events[i].log(), fraction.double()).exp()), None
