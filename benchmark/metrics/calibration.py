"""Calibration: does the estimator know how much it knows? Nothing here needs an exact density.

* ratio: `touchneedle.benchmark.metrics.reliability`, a classifier between theta and theta_0;
* posterior: `touchneedle.benchmark.metrics.posterior_tests`, over the whole prior, for single events and sets;
* likelihood: `touchneedle.benchmark.metrics.pit`, events among the estimator's own.

Every test row carries ``at["p_value"]``, exact under the null hypothesis that the estimator is right. There are many
rows: with k of them, 0.05 / k is the level at which one alone means something.
"""

from __future__ import annotations

from touchneedle.benchmark.metrics.context import EvaluationContext
from touchneedle.benchmark.metrics.pit import pit_scores
from touchneedle.benchmark.metrics.posterior_tests import posterior_scores
from touchneedle.benchmark.metrics.reliability import reliability_scores
from touchneedle.benchmark.metrics.scores import MetricInfo, Scores

UNSIGNED = "events of positive weight"
METRICS = (
    MetricInfo("calibration", "ece", "expected calibration error of the ratio as classifier, less its floor", "lower", UNSIGNED),
    MetricInfo("calibration", "calibration_slope", "slope of a logistic fit of labels on log_ratio", "target", UNSIGNED),
    MetricInfo("calibration", "calibration_intercept", "intercept of a logistic fit of labels on log_ratio", "target", UNSIGNED),
    MetricInfo("calibration", "sbc", "largest ECDF deviation of posterior ranks of the truth", "lower", UNSIGNED),
    MetricInfo("calibration", "expected_coverage", "coverage of highest-density regions over the prior", "target", UNSIGNED),
    MetricInfo("calibration", "tarp", "largest ECDF deviation of ranks of distances to a random point", "lower", UNSIGNED),
    MetricInfo("calibration", "information_gain", "mean log posterior over prior at the truth, in nats", "higher", UNSIGNED),
    MetricInfo("calibration", "information_loss", "information missing to the exact posterior, in nats", "lower", "exact density"),
    MetricInfo("calibration", "pit", "largest ECDF deviation of ranks of events among the estimator's own", "lower", UNSIGNED),
)


def calibration_scores(context: EvaluationContext) -> Scores:
    """All calibration rows and curves of one evaluation."""
    scores = reliability_scores(context)
    for n_set in context.config.n_set:
        scores.add(posterior_scores(context, n_set))
    scores.add(pit_scores(context))
    return scores
