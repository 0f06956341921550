"""Classifier two-sample test: how well a classifier tells two samples apart (Lopez-Paz, Oquab 2017, arXiv:1610.06545).

The classifier is scikit-learn's `HistGradientBoostingClassifier` with 30 trees of 8 leaves, trained on the first half of either
sample and scored on the second by the area under its ROC curve. It needs no scaling and takes weights. Small trees cost
least and see small differences best at some thousand events. The power of the test depends on the classifier and the
number of events, so both stand beside the number; the exact ``optimal_auc`` is the limit of all classifiers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.auc import auc_and_error
from touchneedle.benchmark.metrics.sample_distance import Distance, Sample

CLASSIFIER = "hist_gradient_boosting"
OPTIONS = {"max_iter": 30, "max_leaf_nodes": 8, "max_bins": 63, "early_stopping": False, "random_state": 0}


def c2st_auc(a: Sample, b: Sample) -> Distance:
    """AUC on held-out events, 0.5 if the samples cannot be told apart; the classes count equally."""
    # scikit-learn takes a second to import: only where something is classified.
    from sklearn.ensemble import HistGradientBoostingClassifier

    (train_a, test_a), (train_b, test_b) = _halves(a), _halves(b)
    label = torch.cat([torch.ones(len(train_a.x)), torch.zeros(len(train_b.x))])
    weight = torch.cat([train_a.share, train_b.share]) * len(train_a.x)
    classifier = HistGradientBoostingClassifier(**OPTIONS)
    classifier.fit(torch.cat([train_a.x, train_b.x]).numpy(), label.numpy(), sample_weight=weight.numpy())
    scores = [_score(classifier.decision_function(test.x.numpy())) for test in (test_a, test_b)]
    return Distance(*auc_and_error(scores[0], scores[1], test_a.weight, test_b.weight))


def _halves(sample: Sample) -> tuple[Sample, Sample]:
    middle = len(sample.x) // 2
    return Sample(sample.x[:middle], sample.weight[:middle]), Sample(sample.x[middle:], sample.weight[middle:])


def _score(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
