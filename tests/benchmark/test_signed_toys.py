"""Signed toys through the whole evaluation: numbers where there are any, reasons elsewhere, never a crash."""

import math
from functools import cache

import pytest
import torch

from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

TOY = "signed_mixture"
# Small, because an untrained network is normalised many times over.
SMALL = {"reference_events": 500, "hidden": (16,)}
OPTIONS = {"ratio_bce": SMALL, "posterior_flow": SMALL, "ratio_signed_revert": SMALL}
CONFIG = EvaluationConfig(
    name="signed", n_experiments=40, n_points=2, n_test=4_000, n_sample=1_000, n_events=(200,), n_pool=4_000, n_exact=10, n_posterior=100
)


@cache
def evaluated(name):
    toy = build_toy(TOY)
    torch.manual_seed(0)
    estimator = build_estimator(name, toy.spec, truth=toy, **OPTIONS.get(name, {}))
    estimator.prepare(make_events(toy, 10_000, "prior", 0))
    return evaluate(toy, estimator, CONFIG, 0)


def rows_of(name, metric):
    return [row for row in evaluated(name).metrics if row.name == metric]


@pytest.mark.parametrize("name", ["oracle", "best_gaussian", "ratio_bce", "posterior_flow", "ratio_signed_revert"])
def test_every_row_has_a_number_or_a_reason(name):
    for row in evaluated(name).metrics:
        if row.value is None:
            assert row.at.get("reason"), (row.name, row.at)
    for family in ("density", "closure", "fit"):
        assert any(row.value is not None and math.isfinite(row.value) for row in evaluated(name).metrics if row.family == family)


def test_log_ratios_are_compared_where_the_density_is_positive():
    (exact,), (learned,) = (rows_of(name, "log_ratio_rmse") for name in ("oracle", "best_gaussian"))
    assert exact.value == 0
    assert learned.value > 10 * learned.stderr


def test_maxima_are_counted_on_events_as_data_are():
    (nominal, _) = rows_of("oracle", "minima")
    assert nominal.value == nominal.at["target"]
    assert nominal.value >= 1
