"""SALLY: its optimum is the score at nominal, its ratio is the local one, and its fit the closed-form estimator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.score_sally import ScoreSally
from touchneedle.toys.base import Events, ExactToy

# SALLY is trained at one point: every question is an extrapolation.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")


def built(toy: ExactToy, events: Events, **params: object) -> ScoreSally:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator("score_sally", toy.spec, **params)
    assert isinstance(estimator, ScoreSally)
    estimator.double().prepare(events)
    return estimator


def make_linear(estimator: ScoreSally) -> None:
    """Give a network without hidden layers the exact score of the location toy, x (1, 0.3)."""
    slope = torch.tensor([1.0, 0.3], dtype=torch.float64)
    layer = estimator.network[0]
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_((slope * estimator.standardise_x.std / estimator.scale)[:, None])
        layer.bias.copy_(slope * estimator.standardise_x.mean / estimator.scale)


def test_the_mean_joint_score_is_the_optimum(location: ExactToy) -> None:
    """x takes three values, z two; joint scores that average to the exact score leave no gradient there."""
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    weight = torch.tensor([[0.1, 0.3], [0.2, 0.1], [0.15, 0.15]], dtype=torch.float64)
    noise = torch.tensor([[[3.0, -1.0]], [[1.0, 2.0]], [[-2.0, 0.5]]], dtype=torch.float64)
    # Deviations from the exact score x (1, 0.3) that cancel under the weights of z.
    deviation = torch.cat([noise / weight[:, :1, None], -noise / weight[:, 1:, None]], 1)
    score = x[:, None, None] * torch.tensor([1.0, 0.3], dtype=torch.float64) + deviation
    events = Events(
        x.repeat_interleave(2)[:, None], torch.zeros(6, 2, dtype=torch.float64), weight.flatten(), joint_score=score.flatten(0, 1)
    )
    estimator = built(location, events, hidden=())
    make_linear(estimator)
    gradients = torch.autograd.grad(estimator.loss(events, torch.Generator()).sum(), tuple(estimator.parameters()))
    assert all(g.abs().max() < 1e-10 for g in gradients)
    unweighted = estimator.loss(events.with_weight(torch.ones(6)), torch.Generator()).sum()
    assert torch.autograd.grad(unweighted, tuple(estimator.parameters()))[0].abs().max() > 1e-3


def test_exact_observables_give_the_exact_ratio_of_a_location_model(location: ExactToy) -> None:
    """There p(x|theta) is an exponential family in t, so the local ratio is exact up to the sampling of mean and information."""
    n = 20_000
    estimator = built(location, make_events(location, n, "nominal", 0), hidden=())
    make_linear(estimator)
    estimator.finish(make_events(location, 10, "nominal", 1))
    test = make_events(location, 200, "prior", 2)
    mean, variance = estimator.reference_x.mean(), estimator.reference_x.var(correction=0)
    assert abs(mean) < 4 / n**0.5
    assert abs(variance - 1) < 4 * (2 / n) ** 0.5
    direction = test.theta @ torch.tensor([1.0, 0.3], dtype=torch.float64)
    expected = (test.x[:, 0] - mean) * direction - 0.5 * variance * direction**2
    torch.testing.assert_close(estimator.log_ratio(test.x, test.theta), expected, rtol=1e-6, atol=1e-6)
    assert (expected - location.log_ratio(test.x, test.theta)).square().mean().sqrt() < 4 * 1.5 / n**0.5


def test_without_normalisation_the_fit_is_one_step_of_scoring(location: ExactToy) -> None:
    """theta_0 + I^-1 mean(t) has no gradient in the summed ratio."""
    estimator = built(location, make_events(location, 2_000, "nominal", 3), normalise="none")
    x = make_events(location, 50, "prior", 4).x
    observables = estimator.observables(x.double()).detach()
    step = torch.linalg.lstsq(estimator.information, observables.mean(0)).solution
    assert estimator.score(x, step).mean(0).abs().max() < 1e-6
    assert estimator.score(x, 1.1 * step).mean(0).abs().max() > 1e-4
    assert estimator.log_normalisation(step[None]).tolist() == [0]


def test_moments_follow_the_trained_network_and_survive_a_reload(location: ExactToy) -> None:
    events = make_events(location, 1_000, "nominal", 5)
    estimator = built(location, events)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.mul_(2)
    estimator.finish(events)
    observables = estimator.observables(events.x.double()).detach()
    assert observables.mean(0).abs().max() < 1e-6
    torch.testing.assert_close(estimator.information, torch.cov(observables.T, correction=0), rtol=1e-5, atol=1e-8)
    fresh = build_estimator("score_sally", location.spec).double()
    fresh.load_tensors(estimator.state_dict())
    assert torch.equal(fresh.log_ratio(events.x, events.theta + 1), estimator.log_ratio(events.x, events.theta + 1))


def test_a_parameter_without_effect_at_nominal_gets_no_information(location: ExactToy) -> None:
    """Its joint score is rounding, which must not be scaled up into an observable."""
    events = make_events(location, 200, "nominal", 6)
    assert events.joint_score is not None
    score = events.joint_score.clone()
    score[:, 1] = 1e-17 * torch.randn(200, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    estimator = built(location, replace(events, joint_score=score))
    assert (estimator.observables(events.x.double())[:, 1] == 0).all()
    assert (estimator.information[1] == 0).all()
    assert estimator.loss(events, torch.Generator()).isfinite().all()


def test_events_from_elsewhere_are_refused(location: ExactToy) -> None:
    nominal = make_events(location, 20, "nominal", 8)
    for events, message in [
        (make_events(location, 20, "pairs", 8), "design nominal"),
        (make_events(location, 20, "prior", 8), "design nominal"),
        (replace(nominal, joint_score=None), "joint score.*got none"),
        (nominal.with_weight(-nominal.weight), "positive sum of weights"),
    ]:
        with pytest.raises(InputError, match=message):
            built(location, events)
