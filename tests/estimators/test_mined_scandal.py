"""SCANDAL: likelihood at the point that generated each event, score only where the hypothesis generated it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, ExactToy


def loss_and_estimator(toy: ExactToy, events: Events, score_weight: float) -> tuple[Tensor, Estimator]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator("mined_scandal", toy.spec, transforms=1, hidden_features=(8,), score_weight=score_weight)
    estimator.double().prepare(events)
    return estimator.loss(events, torch.Generator()).detach(), estimator


def test_loss_is_likelihood_where_generated_and_score_where_supposed(location: ExactToy) -> None:
    events = make_events(location, 200, "pairs", 0).with_weight(torch.rand(200, generator=torch.Generator().manual_seed(1)))
    assert events.generated_at is not None
    assert events.joint_score is not None
    share = events.weight / events.weight.mean()
    likelihood, estimator = loss_and_estimator(location, events, 0)
    torch.testing.assert_close(likelihood, -share * estimator.log_prob(events.x, events.generated_at), rtol=1e-5, atol=1e-6)
    both, estimator = loss_and_estimator(location, events, 3)
    distance = (estimator.score(events.x, events.theta) - events.joint_score) * estimator.standardise_theta.std
    numerator = (events.generated_at == events.theta).all(1)
    penalty = share * distance.square().mean(1).where(numerator, 0.0)
    torch.testing.assert_close((both - likelihood) / 3, penalty.detach(), rtol=1e-4, atol=1e-6)


def test_events_without_scores_are_refused(location: ExactToy) -> None:
    events = make_events(location, 20, "pairs", 2)
    with pytest.raises(InputError, match=r"joint score.*got none"):
        loss_and_estimator(location, replace(events, joint_score=None), 1)
