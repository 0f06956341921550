"""The fit family: pseudo-experiments with nuisances profiled and auxiliary measurements redrawn.

At every theta point and number of events, the estimator and the oracle fit the same data sets, drawn from one
pool. Units: *oracle sigma* is the mean of the oracle's Hessian sigma over its valid fits of that point and number
of events; toys without an oracle use the median of the estimator's own. Standard errors are those of the
pseudo-experiments (and, where said, of the pool); the network is the same in all of them, so what another training
would give is not in them (``network``: frozen). `touchneedle.benchmark.metrics.retrained` adds it on demand. A fit
that failed enters no average: ``failed_fits`` counts it, and the interval score takes it for an interval that missed.

Rows, per parameter unless said:

* ``bias_vs_oracle``: mean of (theta_estimator - theta_oracle), paired, in oracle sigma; error std / sqrt(E).
* ``bias``: mean of (theta_estimator - theta_true) in oracle sigma; error std sqrt(1/E + n/N_pool), since all
  experiments share the fluctuation of a pool of N_pool (effective) events.
* ``pull_mean``, ``pull_width``: of (theta - theta_true) / sigma, own Hessian sigma. Targets 0 and 1.
* ``width_vs_oracle``: median of sigma / sigma_oracle, paired; bootstrap error. Target 1.
* ``coverage_68``, ``coverage_95``: share of experiments with 2 [ln L(best) - ln L(truth, nuisances profiled)] <= 1
  and 4; parameters of interest; binomial error with half a count added.
* ``n_star``: see `touchneedle.inference.n_star`; primary.
* ``mean_score``: first-order bias at ``toy.fit_events``, n I^-1 E_p[grad log_ratio at theta_true] in oracle sigma,
  I = total information of the oracle, constraints included; the oracle's score (mean zero) is subtracted event by
  event, which leaves the expectation and removes most of the noise.
* ``surface_error`` (rms of 10 surface fits against exact ones, in sigma), ``outside_share`` and ``failed_fits``:
  per point and number of events.
* ``worst_bias``, ``worst_coverage``, ``interval_score``, ``minima``, ``solutions``: see the modules of their names.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from touchneedle.benchmark.metrics.averages import missing_fit, target_row, value_row
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.fit_cells import Cell, Outcome, fit_point
from touchneedle.benchmark.metrics.interval_score import interval_score_row
from touchneedle.benchmark.metrics.minima import minima_rows
from touchneedle.benchmark.metrics.pulls import pull_rows
from touchneedle.benchmark.metrics.retrained import retrained_scores
from touchneedle.benchmark.metrics.scores import BOTH, REGULAR, MetricInfo, Row, Scores
from touchneedle.benchmark.metrics.solutions import solution_rows
from touchneedle.benchmark.metrics.worst import worst_rows
from touchneedle.benchmark.records import Metric
from touchneedle.conf.errors import InputError
from touchneedle.inference.mean_score import covariance_at, first_order_bias
from touchneedle.inference.n_star import MAX_EVENTS, BiasCurve, NStar, bias_curve, n_star, reconcile

RETRAINED = "evaluation.retrain, regular toy"
SEVERAL = "exact toy that is not regular"
METRICS = (
    MetricInfo("fit", "n_star", "events at which the bias reaches 0.2 oracle sigma (primary)", "higher", BOTH),
    MetricInfo("fit", "bias_vs_oracle", "mean difference to the oracle's fit of the same data, in oracle sigma", "target", BOTH),
    MetricInfo("fit", "bias", "mean of best fit - truth, in oracle sigma", "target", REGULAR),
    MetricInfo("fit", "pull_mean", "mean of (best fit - truth) / own sigma", "target", REGULAR),
    MetricInfo("fit", "pull_width", "standard deviation of the pull", "target", REGULAR),
    MetricInfo("fit", "width_vs_oracle", "own interval width over the oracle's", "target", BOTH),
    MetricInfo("fit", "coverage_68", "coverage of the 68.27 % profile-likelihood interval", "target", REGULAR),
    MetricInfo("fit", "coverage_95", "coverage of the 95.45 % profile-likelihood interval", "target", REGULAR),
    MetricInfo("fit", "mean_score", "first-order bias I^-1 E[grad log_ratio], in oracle sigma", "target", BOTH),
    MetricInfo("fit", "surface_error", "rms of the fast fits against exact ones, in sigma", "lower", REGULAR),
    MetricInfo("fit", "outside_share", "share of fits outside the fast surface, refitted exactly", "lower", REGULAR),
    MetricInfo("fit", "failed_fits", "share of fits that did not converge", "lower", REGULAR),
    MetricInfo("fit", "worst_bias", "largest |bias| over points and parameters, p-value corrected for their number", "lower", REGULAR),
    MetricInfo("fit", "worst_coverage", "least likely coverage over points and parameters, p-value corrected likewise", "target", REGULAR),
    MetricInfo("fit", "interval_score", "FAIR Universe score of the 68 % intervals, at a stated number of them", "higher", REGULAR),
    MetricInfo("fit", "training_spread", "standard deviation of the bias between retrained networks", "lower", RETRAINED),
    MetricInfo("fit", "minima", "distinct maxima of ln L within two sigma of the best, from many starts", "target"),
    MetricInfo("fit", "solutions", "share of the exact solutions within five sigma that are found, at full statistics", "higher", SEVERAL),
    MetricInfo("fit", "solution_shift", "best fit less the oracle's at the same solution, in oracle sigma", "target", SEVERAL),
)
NAMES = tuple(info.name for info in METRICS)
JOINT = ("worst_bias", "worst_coverage", "interval_score")
WITHOUT_REGULARITY = ("minima", "solutions", "solution_shift")
ELSEWHERE = (*WITHOUT_REGULARITY, "training_spread")
PER_POINT = tuple(name for name in NAMES if name not in JOINT + ELSEWHERE)
SCORE_EVENTS = 20_000
REPLICAS = 30


def fit_scores(context: EvaluationContext) -> Scores:
    """Metric rows of the fit family, and one row per pseudo-experiment and parameter for ``fits.parquet``."""
    scores = Scores([*minima_rows(context), *solution_rows(context)])
    reason = _unfit(context)
    if reason:
        scores.metrics += [missing_fit(name, reason) for name in NAMES if name not in WITHOUT_REGULARITY]
        return scores
    scores.add(_frozen_scores(context))
    scores.add(retrained_scores(context))
    return scores


def _frozen_scores(context: EvaluationContext) -> Scores:
    """Fits by the one trained network."""
    scores, table, seconds, fitted = Scores(), list[Row](), list[float](), list[list[Outcome]]()
    reason = ""
    for index, theta in enumerate(context.points):
        try:
            cells = fit_point(context, index, theta)
        except InputError as error:
            reason = str(error)
            scores.metrics += [missing_fit(name, reason, point=index) for name in PER_POINT]
            continue
        fitted.append([cell.outcome() for cell in cells])
        scores.curves += [row for cell in cells if index == 0 for row in pull_rows(cell)]
        for cell in cells:
            scores.metrics += cell.rows()
            table += cell.table()
            seconds.append(cell.fits.seconds_per_fit)
        scores.metrics += _n_star_rows(context, cells) + _score_rows(context, cells[-1])
    scores.metrics += _joint_rows(context, fitted) if fitted else [missing_fit(name, reason) for name in JOINT]
    if seconds:
        scores.cost["fit_seconds"] = statistics.mean(seconds)
    if table:
        scores.tables["fits"] = table
    return scores


def _joint_rows(context: EvaluationContext, fitted: list[list[Outcome]]) -> list[Metric]:
    """Rows over all theta points together, for each number of events."""
    rows = []
    for outcomes in zip(*fitted, strict=True):
        generator = context.generator("interval score", outcomes[0].n_events)
        rows += [*worst_rows(outcomes, len(context.points)), interval_score_row(outcomes, generator)]
    return rows


def _unfit(context: EvaluationContext) -> str:
    if not context.toy.regular:
        return "the toy is not regular: several maxima or an edge, so that intervals from the Hessian or Wilks mean nothing"
    if not context.estimator.additive:
        return "the likelihood is not a sum over events (additive=False)"
    return ""


def _n_star_rows(context: EvaluationContext, cells: list[Cell]) -> list[Metric]:
    parameters = context.toy.spec.parameters
    if cells[0].oracle is cells[0].fits:
        none = NStar(MAX_EVENTS, 0.0, "above")
        return [_n_star_row(cells[0], parameters.names[column], none, "identity") for column in parameters.interest]
    curve = _bias_curve(context, cells)
    rows = []
    for column in parameters.interest:
        measured = [(float(cell.experiments.n_events), *cell.best_bias(column)) for cell in cells]
        result, method = reconcile(None if curve is None else n_star(curve, column), measured)
        rows.append(_n_star_row(cells[0], parameters.names[column], result, method))
    return rows


def _bias_curve(context: EvaluationContext, cells: list[Cell]) -> BiasCurve | None:
    """From every number of events at which the estimator and the oracle have a surface; None if there is none."""
    both = [(cell.fits.surface, None if cell.oracle is None else cell.oracle.surface) for cell in cells]
    pairs = [(own, exact) for own, exact in both if own is not None and (exact is not None or cells[0].oracle is None)]
    generator = context.generator("n_star", cells[0].index)
    return bias_curve(pairs, replicas=REPLICAS, generator=generator) if pairs else None


def _n_star_row(cell: Cell, parameter: str, result: NStar, method: str) -> Metric:
    at: Row = {"point": cell.index, "parameter": parameter, "method": method, "reference": "truth" if cell.oracle is None else "oracle"}
    if result.censored:
        at["censored"] = result.censored
    return value_row("n_star", (result.value, result.stderr), len(cell.experiments.pool), "higher", at)


def _score_rows(context: EvaluationContext, cell: Cell) -> list[Metric]:
    reference = cell.fits if cell.oracle is None else cell.oracle
    parameters, theta = context.toy.spec.parameters, cell.experiments.theta_true
    n = context.toy.fit_events
    covariance = covariance_at(n, reference.pool_covariance, cell.experiments.n_events, theta, parameters)
    local = cell.fits.terms.normalisation
    experiments = replace(cell.experiments, n_events=n)
    score = first_order_bias(context.estimator, context.oracle, experiments, covariance, local, max_events=SCORE_EVENTS)
    at: Row = {"point": cell.index, "n_events": n, "unit": cell.unit}
    values = [(float(bias), float(error)) for bias, error in zip(score.bias, score.stderr, strict=True)]
    return [target_row("mean_score", values[k], score.count, 0.0, {**at, "parameter": parameters.names[k]}) for k in parameters.interest]
