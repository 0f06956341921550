"""Tests of posteriors, for single events and for sets: SBC, expected coverage, TARP, and the information that they need beside them.

* ``sbc``: rank of the true theta_k among draws from q(theta|x) (Talts et al. 2018, arXiv:1804.06788); and, since a
  posterior that ignores x passes it, rank of the log likelihood at the true theta (Modrak et al. 2022,
  arXiv:2211.02383): of the exact one, which sees what q misses, or of the estimator's own where no exact one exists.
* ``expected_coverage``: share of truths inside the region of highest posterior density of 68.27 and 95.45 %
  (Hermans et al. 2021, arXiv:2110.06581); binomial error and exact p-value.
* ``tarp``: rank of the distance between truth and a reference point that depends on x (Lemos et al. 2023,
  arXiv:2302.03026). The reference is a least-squares guess of theta from x plus noise of its own error's size, distances are in
  units of that error, and the test is on the N ranks. q = prior fails as soon as the guess knows more than the prior. References
  lie on all sides of the guess, so a bias, which ``sbc`` sees, cancels in first order; and a width
  10 % too small needs more than 1,000 pairs, coverage does not.
* ``information_gain``: mean of log q(theta*|x) - log prior(theta*), at most the mutual information of theta and x. Coverage
  and ``sbc`` of coordinates say nothing of it. ``information_loss`` is what is missing to the exact posterior, the mean
  KL(p(theta|x) || q(theta|x)), paired event by event, never negative but for noise.

All ranks are exactly uniform for a right posterior (`touchneedle.benchmark.metrics.ranks`), whatever the effective
number of draws; few of them cost power, so below `MIN_EFFECTIVE` (median) the rows are n/a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from touchneedle.benchmark.metrics.averages import share_error
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.pairs import Proposal, draw_pairs
from touchneedle.benchmark.metrics.posterior import PosteriorDraws, is_direct, posterior_draws
from touchneedle.benchmark.metrics.ranks import deviation_row, ecdf_rows, truth_rank
from touchneedle.benchmark.metrics.scores import Scores
from touchneedle.benchmark.metrics.statistics import mean_row, missing_row
from touchneedle.benchmark.records import Direction, Metric
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import ExactToy

NAMES = ("sbc", "expected_coverage", "tarp", "information_gain", "information_loss")
LEVELS = (math.erf(1 / math.sqrt(2)), math.erf(2 / math.sqrt(2)))
MIN_EFFECTIVE = 5.0
MAX_CURVES = 4
LIKELIHOOD, DENSITY, DISTANCE = "log_likelihood", "density", "distance"


@dataclass(frozen=True)
class PosteriorRanks:
    """What N pairs say of one estimator.

    Attributes:
        ranks: name of the function -> ranks of the truth (N,): parameter names, and the three above.
        gain, exact_gain: log posterior over prior at the truth (N,), learned and exact.
        effective: effective number of draws (N,).
        broken: share of answers that are not a number (N,).
    """

    ranks: dict[str, Tensor]
    gain: Tensor
    exact_gain: Tensor | None
    effective: Tensor
    broken: Tensor


def posterior_scores(context: EvaluationContext, n_set: int) -> Scores:
    """All posterior tests at sets of ``n_set`` events."""
    try:
        found = posterior_ranks(context, n_set)
    except InputError as error:
        return Scores([missing_row("calibration", name, str(error), {"n_set": n_set}) for name in NAMES])
    effective = float(found.effective.quantile(0.5))
    at: dict[str, Any] = {
        "n_set": n_set,
        "posterior": "own" if is_direct(context.estimator, n_set) else "prior times exp log_ratio",
        "effective_draws": round(effective, 2),
        "broken_share": float(found.broken.mean()),
    }
    if effective < MIN_EFFECTIVE:
        reason = f"the posterior is too narrow to be drawn from: {effective:.1f} effective draws in the median, {MIN_EFFECTIVE:g} needed"
        return Scores([missing_row("calibration", name, reason, at) for name in NAMES])
    scores = Scores(_deviations(context, found, at) + _coverage(found, at) + _information(found, at))
    for name in _drawn(context):
        scores.curves += ecdf_rows(_curve_of(name), f"{name}, n_set={n_set}", found.ranks[name])
    return scores


def posterior_ranks(context: EvaluationContext, n_set: int) -> PosteriorRanks:
    """Ranks and information of ``n_posterior`` pairs; raises `InputError` where none can be drawn."""
    pairs = draw_pairs(context, context.config.n_posterior, n_set, "test")
    proposal = Proposal.learn(context, n_set)
    parts = []
    for part, draws in posterior_draws(context, pairs, proposal):
        reference = context.generator("tarp", n_set, part.start)
        functions = _functions(context, draws, _distance(draws.u, pairs.x[part], proposal, reference))
        parts.append((draws, {name: _rank(context, name, values, draws, n_set, part.start) for name, values in functions.items()}))
    exact = [draws.exact_gain for draws, _ in parts if draws.exact_gain is not None]
    return PosteriorRanks(
        ranks={name: torch.cat([ranks[name] for _, ranks in parts]) for name in parts[0][1]},
        gain=torch.cat([draws.gain for draws, _ in parts]),
        exact_gain=torch.cat(exact) if exact else None,
        effective=torch.cat([draws.effective_draws for draws, _ in parts]),
        broken=torch.cat([draws.broken for draws, _ in parts]),
    )


def _rank(context: EvaluationContext, name: str, values: Tensor, draws: PosteriorDraws, n_set: int, start: int) -> Tensor:
    return truth_rank(values, draws.log_weight, context.generator("ties", name, n_set, start))


def _functions(context: EvaluationContext, draws: PosteriorDraws, distance: Tensor) -> dict[str, Tensor]:
    """The functions f(theta, x) whose ranks are taken, each (b, 1 + L)."""
    coordinates = dict(zip(context.toy.spec.parameters.names, draws.u.unbind(-1), strict=True))
    likelihood = draws.log_likelihood if draws.exact is None else draws.exact
    # Few points are denser than a good truth: the rank of -log q is the level of the region whose edge it is on.
    return coordinates | {LIKELIHOOD: likelihood, DENSITY: -draws.log_density, DISTANCE: distance}


def _distance(u: Tensor, x: Tensor, proposal: Proposal, generator: torch.Generator) -> Tensor:
    whitened = proposal.whiten(u, x)
    reference = torch.randn(len(u), 1, u.shape[-1], generator=generator, dtype=torch.float64)
    return (whitened - reference).norm(dim=-1)


def _drawn(context: EvaluationContext) -> list[str]:
    """Every function has a row; a curve have the parameters of interest, then nuisances, up to a number, and the other three."""
    space = context.toy.spec.parameters
    coordinates = [space.names[column] for column in (*space.interest, *space.nuisance)]
    return [*coordinates[:MAX_CURVES], LIKELIHOOD, DENSITY, DISTANCE]


def _curve_of(name: str) -> str:
    return {DENSITY: "expected_coverage", DISTANCE: "tarp"}.get(name, "sbc")


def _deviations(context: EvaluationContext, found: PosteriorRanks, at: dict[str, Any]) -> list[Metric]:
    names = context.toy.spec.parameters.names
    whose = "exact" if isinstance(context.toy, ExactToy) else "own"
    return [
        *[deviation_row("sbc", found.ranks[name], {"parameter": name, **at}) for name in names],
        deviation_row("sbc", found.ranks[LIKELIHOOD], {"function": LIKELIHOOD, "density": whose, **at}),
        deviation_row("tarp", found.ranks[DISTANCE], at),
    ]


def _coverage(found: PosteriorRanks, at: dict[str, Any]) -> list[Metric]:
    return [_coverage_row(found.ranks[DENSITY], level, at) for level in LEVELS]


def _coverage_row(ranks: Tensor, level: float, at: dict[str, Any]) -> Metric:
    n, covered = len(ranks), int((ranks <= level).sum())
    at = {**at, "level": round(level, 4), "target": round(level, 4), "p_value": float(binomtest(covered, n, level).pvalue)}
    value = covered / n
    return Metric(family="calibration", name="expected_coverage", at=at, value=value, stderr=share_error(value, n), n=n, direction="target")


def _information(found: PosteriorRanks, at: dict[str, Any]) -> list[Metric]:
    if found.exact_gain is None:
        missing = missing_row("calibration", "information_loss", "the toy has no exact density to compare with", at)
        return [_mean_or_reason("information_gain", found.gain, at, "higher"), missing]
    exact = {"maximum": float(found.exact_gain.mean())} if bool(torch.isfinite(found.exact_gain).all()) else {}
    return [
        _mean_or_reason("information_gain", found.gain, {**at, **exact}, "higher"),
        _mean_or_reason("information_loss", found.exact_gain - found.gain, at, "lower"),
    ]


def _mean_or_reason(name: str, values: Tensor, at: dict[str, Any], direction: Direction) -> Metric:
    infinite = float((~torch.isfinite(values)).double().mean())
    if infinite > 0:
        reason = f"infinite or not a number for {infinite:.2%} of the pairs"
        return missing_row("calibration", name, reason, at)
    return mean_row("calibration", name, values, at, direction=direction)
