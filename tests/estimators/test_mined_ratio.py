"""Mined gold: the losses' optima are the ratio and the score on a discrete problem known by hand; identities; weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.data import make_events
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.mined_ratio import MinedRatio
from touchneedle.toys.base import Events, ExactToy, ToySpec, concatenate

RATIO = ["mined_alice", "mined_rolr"]
WITH_SCORE = ["mined_alices", "mined_rascal"]
N_X, N_Z = 5, 3
THETA = torch.tensor([0.6, -0.4], dtype=torch.float64)


def built(name: str, spec: ToySpec, **params: object) -> MinedRatio:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, spec, **params)
    assert isinstance(estimator, MinedRatio)
    return estimator.double()


def log_joint(theta: Tensor) -> Tensor:
    """log p(x, z|theta) of a table (x, z) that is quadratic in theta (p,), shape (N_X, N_Z)."""
    generator = torch.Generator().manual_seed(1)
    offset = torch.randn(N_X, N_Z, generator=generator, dtype=torch.float64)
    linear, square = torch.randn(2, N_X, N_Z, 2, generator=generator, dtype=torch.float64)
    return (offset + linear @ theta + square @ theta**2).flatten().log_softmax(0).reshape(N_X, N_Z)


def exact_table(theta: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|theta) (N_X,) and its gradient in theta (N_X, p)."""
    score = torch.autograd.functional.jacobian(lambda point: log_joint(point).logsumexp(1), theta)
    assert isinstance(score, Tensor)
    return log_joint(theta).logsumexp(1), score


def discrete_population(theta: Tensor) -> Events:
    """Every (x, z) once from theta and once from theta_0 = 0, weighted by its probability there; x is its index."""
    log_p, log_p0 = log_joint(theta), log_joint(torch.zeros_like(theta))
    score = torch.autograd.functional.jacobian(log_joint, theta)
    assert isinstance(score, Tensor)
    x = torch.arange(N_X, dtype=torch.float64)[:, None].expand(N_X, N_Z).flatten()
    point = theta.expand(len(x), -1)
    at_theta = Events(
        x[:, None],
        point,
        log_p.exp().flatten(),
        generated_at=point,
        joint_log_ratio=(log_p - log_p0).flatten(),
        joint_score=score.flatten(0, 1),
    )
    at_nominal = replace(at_theta, weight=log_p0.exp().flatten(), generated_at=torch.zeros_like(point))
    return concatenate([at_theta, at_nominal])


class Tabular(torch.nn.Module):
    """In place of the network: at each x a value (N_X,) at THETA and a gradient there (N_X, p)."""

    def __init__(self, value: Tensor, gradient: Tensor) -> None:
        super().__init__()
        self.value, self.gradient = torch.nn.Parameter(value), torch.nn.Parameter(gradient)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        index = x[:, 0].long()
        return self.value[index] + (self.gradient[index] * (theta - THETA)).sum(-1)


@pytest.mark.parametrize("name", RATIO + WITH_SCORE)
def test_the_exact_ratio_and_score_are_the_optimum(name: str, location: ExactToy, monkeypatch: pytest.MonkeyPatch) -> None:
    events = discrete_population(THETA)
    log_p, score = exact_table(THETA)
    log_ratio = log_p - exact_table(torch.zeros_like(THETA))[0]
    estimator = built(name, location.spec)
    estimator.prepare(events)

    def gradients(value: Tensor, slope: Tensor) -> Tensor:
        table = Tabular(value, slope)
        monkeypatch.setattr(estimator, "_log_evidence_ratio", lambda x, theta: table(x, theta))
        loss = estimator.loss(events, torch.Generator()).sum()
        found = torch.autograd.grad(loss, tuple(table.parameters()), allow_unused=True)
        return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in found])

    at_optimum = gradients(log_ratio.clone(), score.clone())
    elsewhere = gradients(log_ratio + 0.1, score + 0.1)
    assert at_optimum.abs().max() < 1e-10
    assert elsewhere.abs().max() > 1e-3


@pytest.mark.parametrize("name", RATIO + WITH_SCORE)
def test_zero_at_nominal_and_reference_from_nominal(name: str, location: ExactToy) -> None:
    events = make_events(location, 400, "pairs", 0)
    assert events.generated_at is not None
    estimator = built(name, location.spec, reference_events=1_000)
    estimator.prepare(events)
    assert (estimator.log_ratio(events.x, location.spec.parameters.nominal) == 0).all()
    from_nominal = (events.generated_at == 0).all(1)
    assert torch.equal(estimator.reference_x, events.x[from_nominal].double())
    theta = events.theta[:3]
    ratio = estimator.log_ratio_grid(events.x[from_nominal], theta).exp()
    torch.testing.assert_close(estimator.log_normalisation(theta), ratio.mean(0).log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("with_score", "without"), [("mined_alices", "mined_alice"), ("mined_rascal", "mined_rolr")])
def test_the_score_term_is_the_only_difference(with_score: str, without: str, location: ExactToy) -> None:
    events = make_events(location, 200, "pairs", 1)
    assert events.joint_score is not None
    losses = {}
    for name, params in ((without, {}), (with_score, {"score_weight": 0}), (with_score, {"score_weight": 3})):
        estimator = built(name, location.spec, **params)
        estimator.prepare(events)
        losses[name, params.get("score_weight")] = estimator.loss(events, torch.Generator()).detach()
    plain, none, full = losses.values()
    torch.testing.assert_close(none, plain)
    numerator = (events.generated_at == events.theta).all(1)
    learned = estimator.score(events.x, events.theta)
    expected = ((learned - events.joint_score) * events.theta.std(0, correction=0)).square().mean(1).where(numerator, 0.0)
    torch.testing.assert_close((full - none) / 3, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RATIO + WITH_SCORE)
def test_weights_count_events_and_classes_are_equal(name: str, location: ExactToy) -> None:
    """An event of weight 3 is three events, and a class with three times the events has no more to say."""
    events = make_events(location, 100, "pairs", 2)
    numerator = (events.generated_at == events.theta).all(1)
    weight = torch.where(numerator, 3.0, 1.0)
    repeated = events[torch.arange(100).repeat_interleave(weight.long())]
    gradients = []
    for sample in (events, events.with_weight(weight), repeated):
        estimator = built(name, location.spec)
        estimator.prepare(sample)
        # Widths of theta differ between samples: only the balance of the classes is compared.
        for standardise in (estimator.standardise_theta, estimator.standardise_x):
            standardise.std.fill_(1)
            standardise.mean.fill_(0)
        loss = estimator.loss(sample, torch.Generator()).mean()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(estimator.parameters()))]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", RATIO + WITH_SCORE)
def test_infinite_joint_ratios_and_scores_keep_the_loss_finite(name: str, location: ExactToy) -> None:
    """Where a support ends the joint ratio is 0 or infinite, and the joint score of events from theta_0 is anything."""
    events = make_events(location, 100, "pairs", 3)
    assert events.joint_log_ratio is not None
    assert events.joint_score is not None
    numerator = (events.generated_at == events.theta).all(1)
    edge = torch.arange(100) % 3 == 0
    ratio = events.joint_log_ratio.where(~edge, torch.where(numerator, torch.inf, -torch.inf))
    score = events.joint_score.where(~(edge & ~numerator)[:, None], torch.nan)
    estimator = built(name, location.spec)
    estimator.prepare(events)
    loss = estimator.loss(replace(events, joint_log_ratio=ratio, joint_score=score), torch.Generator())
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss.sum(), tuple(estimator.parameters())))


def test_events_without_gold_are_refused(location: ExactToy) -> None:
    pairs, prior = make_events(location, 50, "pairs", 4), make_events(location, 50, "prior", 4)
    bare = replace(pairs, joint_log_ratio=None)
    nan = replace(pairs, joint_log_ratio=torch.full((50,), torch.nan))
    no_score = replace(pairs, joint_score=None)
    half = pairs[(pairs.generated_at == pairs.theta).all(1)]
    for name, events, message in [
        ("mined_alice", prior, "joint log ratio.*got none"),
        ("mined_rolr", bare, "joint log ratio.*got none"),
        ("mined_alice", nan, "joint log ratio.*50 that are not numbers"),
        ("mined_alices", no_score, "joint score.*got none"),
        ("mined_rascal", half, "some from theta and some from theta_0.*got 25 and 0"),
    ]:
        with pytest.raises(InputError, match=message):
            built(name, location.spec).prepare(events)
