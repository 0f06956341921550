"""Coverage and bias over retrained networks: what a method does, where one frozen network shows what luck it had.

The bias of one training stays in all its pseudo-experiments. So K networks are trained on independent event sets and
each fits its own pool and pseudo-experiments, at nominal. With b_k the mean of network k and s_k its error,

    value  = sum_k b_k / K,   stderr = sd(b) / sqrt(K)                    clustered: experiments of a network are not independent
    spread = sqrt(max(0, sd(b)^2 - sum_k s_k^2 / K))                      what trainings differ by, without the noise of the fits

The error of a coverage is at least the binomial one. That of the spread is sqrt(spread^2 + e) - spread with
e = sd(b)^2 sqrt(2 / (K - 1)), the error of a variance of K normal numbers: the usual e / (2 spread) where the spread
is large, and the 68 % upper limit where it is zero (two of these errors are no 95 % there). Rows carry
network = retrained, those of the one trained network carry network = frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import Average, missing_fit, share_error, target_row, value_row
from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.fit_cells import LEVELS, NO_ORACLE, Outcome, fit_point
from touchneedle.benchmark.metrics.scores import Row, Scores
from touchneedle.benchmark.records import Metric
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import FiniteToy

NAMES = ("bias_vs_oracle", "coverage_68", "coverage_95", "training_spread")


def retrained_scores(context: EvaluationContext) -> Scores:
    """Rows of ``evaluation.retrain`` networks; n/a rows where there are none."""
    if context.config.retrain == 0:
        return Scores([missing_fit("training_spread", "no networks were retrained: evaluation.retrain=0", network="retrained")])
    if isinstance(context.toy, FiniteToy):
        return _missing("a finite sample has no independent event sets to retrain on")
    if context.retrain is None:
        return _missing("this evaluation was given no way to train networks")
    outcomes, failures = _outcomes(context, context.retrain)
    if len(outcomes) < 2:
        return _missing(f"fewer than 2 of {context.config.retrain} networks could be fitted: {failures[-1]}")
    return Scores([row for group in zip(*outcomes, strict=True) for row in _rows(group, len(failures))])


def _missing(reason: str) -> Scores:
    return Scores([missing_fit(name, reason, network="retrained") for name in NAMES])


def _outcomes(context: EvaluationContext, train: Callable[[int], Estimator]) -> tuple[list[list[Outcome]], list[str]]:
    """Of each network, one outcome per number of events; and why networks are missing."""
    outcomes, failures = [], []
    for k in range(context.config.retrain):
        try:
            network = train(k).double().eval()
            cells = fit_point(replace(context, estimator=network), 0, context.points[0], "network", k)
        except InputError as error:
            failures.append(str(error))
            continue
        outcomes.append([cell.outcome() for cell in cells])
    return outcomes, failures


def _rows(outcomes: Sequence[Outcome], failed: int) -> list[Metric]:
    """Rows of one number of events."""
    rows = []
    at: Row = {"point": 0, "n_events": outcomes[0].n_events, "network": "retrained", "networks": len(outcomes), "failed_networks": failed}
    for order, parameter in enumerate(outcomes[0].parameters):
        at = {**at, "parameter": parameter}
        rows += _bias_rows([outcome.bias[order] for outcome in outcomes], outcomes, at)
        for name, (level, _) in LEVELS.items():
            covered = [outcome.covered[name][:, order].double() for outcome in outcomes if len(outcome.covered[name])]
            row = target_row(name, clustered_share(covered), sum(map(len, covered)), round(level, 4), {**at, "level": round(level, 4)})
            rows.append(row)
    return rows


def _bias_rows(biases: Sequence[Average], outcomes: Sequence[Outcome], at: Row) -> list[Metric]:
    n = sum(outcome.pairs for outcome in outcomes)
    known = torch.tensor([pair for pair in biases if math.isfinite(sum(pair))], dtype=torch.float64).reshape(-1, 2)
    mean = clustered_mean(known[:, 0])
    unit = outcomes[0].unit
    paired = unit == "oracle_sigma"
    return [
        target_row("bias_vs_oracle", mean, n, 0.0, at) if paired else missing_fit("bias_vs_oracle", NO_ORACLE, **at),
        value_row("training_spread", spread_and_error(known[:, 0], known[:, 1]), n, "lower", {**at, "unit": unit}),
    ]


def clustered_mean(values: Tensor) -> Average:
    """Mean of the means of K clusters, each counted once, and its error."""
    if len(values) < 2:
        return math.nan, math.nan
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def clustered_share(covered: Sequence[Tensor]) -> Average:
    """Mean of the shares of K clusters; error as `clustered_mean`, but at least that of independent entries."""
    share, error = clustered_mean(torch.tensor([float(entries.mean()) for entries in covered], dtype=torch.float64))
    return share, max(error, share_error(share, sum(map(len, covered)))) if math.isfinite(share) else error


def spread_and_error(values: Tensor, errors: Tensor) -> Average:
    """Standard deviation of the true values behind K measured ones, given the errors of these."""
    if len(values) < 2:
        return math.nan, math.nan
    total = float(values.var())
    spread = math.sqrt(max(0.0, total - float(errors.square().mean())))
    return spread, math.sqrt(spread**2 + total * math.sqrt(2 / (len(values) - 1))) - spread
