"""Fits of one theta point and number of events, by the estimator and the oracle, and the rows that they give alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import (
    Average,
    mean_and_error,
    median_and_error,
    missing_fit,
    share_and_error,
    share_error,
    target_row,
    value_row,
    width_and_error,
)
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Metric
from touchneedle.inference.fit_options import FitOptions
from touchneedle.inference.pseudo_experiments import PseudoExperiments, draw_pseudo_experiments
from touchneedle.inference.pseudo_fits import PseudoFits, fit_pseudo_experiments

LEVELS = {"coverage_68": (math.erf(1 / math.sqrt(2)), 1.0), "coverage_95": (math.erf(2 / math.sqrt(2)), 4.0)}
N_CHECK = 10
NO_ORACLE = "the toy has no exact density to compare with"


def fit_point(context: EvaluationContext, index: int, theta: Tensor, *labels: object) -> list[Cell]:
    """Fits at one theta point (p,), for every number of events in turn; ``labels`` name another set of events than the usual."""
    pool = context.observed_at(theta, context.config.n_pool, "pool", index, *labels)
    cells = []
    for n_events in sorted(context.config.n_events):
        generator = context.generator("experiments", index, n_events, *labels)
        parameters = context.toy.spec.parameters
        experiments = draw_pseudo_experiments(pool, theta, n_events, context.config.n_experiments, parameters, generator)
        cells.append(_fit_cell(context, index, experiments))
    return cells


def _fit_cell(context: EvaluationContext, index: int, experiments: PseudoExperiments) -> Cell:
    oracle = context.oracle
    rates = context.toy.rates
    options = FitOptions(max_exact=context.config.n_exact, n_check=min(N_CHECK, context.config.n_exact))
    if oracle is None:
        return Cell(context, index, experiments, fit_pseudo_experiments(context.estimator, experiments, rates=rates, options=options), None)
    exact = fit_pseudo_experiments(oracle, experiments, rates=rates)
    if type(context.estimator) is type(oracle):
        return Cell(context, index, experiments, exact, exact)
    metric = exact.pool_covariance if bool(exact.pool_covariance.isfinite().all()) else None
    fits = fit_pseudo_experiments(context.estimator, experiments, rates=rates, metric_covariance=metric, options=options)
    return Cell(context, index, experiments, fits, exact)


@dataclass(frozen=True)
class Outcome:
    """What rows over several cells need of each: over all theta points, or over retrained networks.

    Attributes:
        parameters: names of the parameters of interest.
        bias: mean and error for each of them, in the unit said, see `Cell.best_bias`.
        pairs: experiments behind the bias.
        covered: of each coverage metric, whether the interval holds the truth (valid fits, n_interest).
        length: of the intervals theta +- sigma of the first parameter of interest, 0 where the fit failed (E,).
        holds: whether these hold the truth (E,).
        valid: whether the fit worked (E,).
    """

    point: int
    n_events: int
    parameters: tuple[str, ...]
    unit: str
    bias: tuple[Average, ...]
    pairs: int
    covered: dict[str, Tensor]
    length: Tensor
    holds: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Cell:
    """Fits of one theta point and number of events, by the estimator and (if any) the oracle."""

    context: EvaluationContext
    index: int
    experiments: PseudoExperiments
    fits: PseudoFits
    oracle: PseudoFits | None

    @cached_property
    def count(self) -> int:
        """Experiments that everybody fitted."""
        return min(len(self.fits), len(self.fits if self.oracle is None else self.oracle))

    @cached_property
    def reference_sigma(self) -> Tensor:
        """Oracle sigma (p,), or the estimator's own median; NaN without valid fits."""
        if self.oracle is not None:
            return self.oracle.sigma[self.oracle.valid].mean(0)
        return self.fits.sigma[self.fits.valid].quantile(0.5, dim=0) if bool(self.fits.valid.any()) else self.fits.sigma.mean(0) * math.nan

    @cached_property
    def valid(self) -> Tensor:
        """The estimator's valid fits (count,)."""
        return self.fits.valid[: self.count]

    @cached_property
    def paired(self) -> Tensor:
        """Experiments that both fitted (count,)."""
        return self.valid if self.oracle is None else self.valid & self.oracle.valid[: self.count]

    @property
    def unit(self) -> str:
        """Which sigma biases are given in."""
        return "own_sigma" if self.oracle is None else "oracle_sigma"

    @property
    def pool_variance(self) -> float:
        """Variance of the shared fluctuation of the pool, relative to that of one experiment: n / N_pool."""
        return self.experiments.n_events / self.experiments.effective_pool

    def at(self, **more: str | float | int | bool | None) -> dict[str, str | float | int | bool | None]:
        """Where the rows of this cell hold."""
        return {"point": self.index, "n_events": self.experiments.n_events, **more}

    def rows(self) -> list[Metric]:
        """All rows of this point and number of events but n* and the mean score."""
        parameters = self.context.toy.spec.parameters
        rows = [row for column in range(len(parameters)) for row in self._parameter_rows(column, parameters.names[column])]
        for order, column in enumerate(parameters.interest):
            rows += [self._coverage_row(name, order, parameters.names[column]) for name in LEVELS]
        return rows + self._health_rows()

    def best_bias(self, column: int) -> Average:
        """Mean paired difference to the oracle in its sigma, or the plain bias without an oracle."""
        if self.oracle is None:
            return self._bias(column)
        difference = self.fits.theta[: self.count, column] - self.oracle.theta[: self.count, column]
        return mean_and_error(difference[self.paired] / self.reference_sigma[column])

    def pull(self, column: int) -> Tensor:
        """(theta - theta_true) / sigma of one parameter, one entry per valid fit."""
        difference = self.fits.theta[: self.count, column] - self.experiments.theta_true[column]
        return (difference / self.fits.sigma[: self.count, column])[self.valid]

    def covered(self, name: str, order: int) -> Tensor:
        """Whether the interval of a coverage metric holds the truth of a parameter of interest, one entry per valid fit."""
        return (self.fits.t_true[: self.count, order] <= LEVELS[name][1])[self.valid]

    def _bias(self, column: int) -> Average:
        difference = self.fits.theta[: self.count, column] - self.experiments.theta_true[column]
        return mean_and_error(difference[self.valid] / self.reference_sigma[column], self.pool_variance)

    def _parameter_rows(self, column: int, name: str) -> list[Metric]:
        at = self.at(parameter=name)
        pull = self.pull(column)
        n = len(pull)
        return [
            self._against_oracle("bias_vs_oracle", column, at),
            target_row("bias", self._bias(column), n, 0.0, {**at, "unit": self.unit}),
            target_row("pull_mean", mean_and_error(pull, self.pool_variance), n, 0.0, at),
            target_row("pull_width", width_and_error(pull), n, 1.0, at),
            self._against_oracle("width_vs_oracle", column, at),
        ]

    def _against_oracle(self, name: str, column: int, at: Row) -> Metric:
        if self.oracle is None:
            return missing_fit(name, NO_ORACLE, **at)
        n = int(self.paired.sum())
        if name == "bias_vs_oracle":
            return target_row(name, self.best_bias(column), n, 0.0, at)
        ratio = (self.fits.sigma[: self.count, column] / self.oracle.sigma[: self.count, column])[self.paired]
        generator = self.context.generator("bootstrap", self.index, self.experiments.n_events)
        return target_row(name, median_and_error(ratio, generator), n, 1.0, at)

    def _coverage_row(self, name: str, order: int, parameter: str) -> Metric:
        level = LEVELS[name][0]
        covered = self.covered(name, order)
        at = self.at(parameter=parameter, level=round(level, 4), network="frozen")
        return target_row(name, share_and_error(covered), len(covered), round(level, 4), at)

    def _health_rows(self) -> list[Metric]:
        fits = self.fits
        at = self.at(method=fits.method, surface_failed=fits.surface_failed)
        failed = share_and_error(~self.valid)
        outside = (fits.share_outside, share_error(fits.share_outside, len(self.experiments)))
        error = (fits.check_rms, fits.check_rms / math.sqrt(2 * max(1, fits.check_count * len(self.reference_sigma))))
        return [
            value_row("surface_error", error, fits.check_count, "lower", at, "no surface was checked: exact fits"),
            value_row("outside_share", outside, len(self.experiments), "lower", at),
            value_row("failed_fits", failed, self.count, "lower", at),
        ]

    def outcome(self) -> Outcome:
        """What is kept of this cell when its events and surfaces are gone."""
        parameters, first = self.context.toy.spec.parameters, self.context.toy.spec.parameters.interest[0]
        sigma = torch.where(self.valid, self.fits.sigma[: self.count, first], 0.0)
        distance = (self.fits.theta[: self.count, first] - self.experiments.theta_true[first]).abs()
        return Outcome(
            point=self.index,
            n_events=int(self.experiments.n_events),
            parameters=tuple(parameters.names[column] for column in parameters.interest),
            unit=self.unit,
            bias=tuple(self.best_bias(column) for column in parameters.interest),
            pairs=int(self.paired.sum()),
            covered={name: torch.stack([self.covered(name, k) for k in range(len(parameters.interest))], -1) for name in LEVELS},
            length=2 * sigma,
            holds=self.valid & (distance <= sigma),
            valid=self.valid,
        )

    def table(self) -> list[Row]:
        """One row per pseudo-experiment and parameter."""
        parameters = self.context.toy.spec.parameters
        return [self._table_row(e, column, name) for e in range(self.count) for column, name in enumerate(parameters.names)]

    def _table_row(self, e: int, column: int, name: str) -> Row:
        interest = self.context.toy.spec.parameters.interest
        row: Row = {
            "point": self.index,
            "n_events": self.experiments.n_events,
            "experiment": e,
            "n_observed": int(self.experiments.counts[e]),
            "parameter": name,
            "truth": float(self.experiments.theta_true[column]),
        }
        order = interest.index(column) if column in interest else None
        for prefix, fits in (("", self.fits), ("oracle_", self.oracle)):
            row[f"{prefix}value"] = None if fits is None else float(fits.theta[e, column])
            row[f"{prefix}sigma"] = None if fits is None else float(fits.sigma[e, column])
            row[f"{prefix}t"] = None if fits is None or order is None else float(fits.t_true[e, order])
            row[f"{prefix}valid"] = None if fits is None else bool(fits.valid[e])
            row[f"{prefix}exact"] = None if fits is None else bool(fits.exact[e])
        return row
