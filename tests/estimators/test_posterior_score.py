"""Posterior scores on the location toy, where every posterior is Gaussian in closed form, at every noise and for every set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.field_network import FieldNetwork
from touchneedle.estimators.posterior_score import PosteriorScore
from touchneedle.toys.base import Events, ExactToy

# x = RESPONSE . u + N(0, 1) in the coordinates with prior N(0, 1)^2.
RESPONSE = torch.tensor([0.5, 0.3], dtype=torch.float64)
SIGMA_MIN = 0.01


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def events_of(toy: ExactToy, n: int, seed: int) -> Events:
    generator = torch.Generator().manual_seed(seed)
    return toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)


def posterior_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of u after the events x (k,)."""
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + len(x) * RESPONSE.outer(RESPONSE))
    return covariance @ RESPONSE * x.sum(), covariance


class ExactNetwork(FieldNetwork):
    """F / sin a of one event x, which is its own code."""

    def encode(self, context: Tensor) -> Tensor:
        return context

    def forward(self, y: Tensor, time: Tensor, code: Tensor) -> Tensor:
        cos = time[:, 1:2]
        mean = cos * code * RESPONSE / (1 + RESPONSE @ RESPONSE)
        return (self._excess(cos) * ((y - mean) @ RESPONSE)[:, None] * RESPONSE - mean) / cos

    def with_divergence(self, y: Tensor, time: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        cos = time[:, 1]
        return self(y, time, code), (self._excess(cos) * (RESPONSE @ RESPONSE) / cos).expand(len(y))

    def _excess(self, cos: Tensor) -> Tensor:
        """e, where 1 + e RESPONSE RESPONSE^T is the precision of the diffused posterior 1 - cos^2 (...), by Sherman and Morrison."""
        return cos**2 / (1 + (1 - cos**2) * (RESPONSE @ RESPONSE))


@pytest.fixture
def exact(location: ExactToy) -> PosteriorScore:
    """The estimator as perfect training would leave it."""
    estimator = build_estimator("posterior_score", location.spec, sigma_min=SIGMA_MIN, levels=32, tolerance=1e-4).double()
    assert isinstance(estimator, PosteriorScore)
    events = events_of(location, 20_000, 1)
    estimator.prepare(events)
    estimator.standardise_x.mean.zero_()
    estimator.standardise_x.std.fill_(1.0)
    estimator.field.network = ExactNetwork(2, 3, 1, (1, 1))
    estimator.finish(events[:500])
    return estimator.requires_grad_(False)


def test_integrated_scores_are_the_log_ratio(exact: PosteriorScore, location: ExactToy) -> None:
    events = events_of(location, 200, 2)
    # The smallest noise smears the posterior by a relative 1e-4 of its variance.
    torch.testing.assert_close(exact.log_ratio(events.x, events.theta), location.log_ratio(events.x, events.theta), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(exact.score(events.x, events.theta), location.score(events.x, events.theta), rtol=2e-3, atol=2e-3)


def test_posterior_density_is_the_exact_one(exact: PosteriorScore, location: ExactToy) -> None:
    events = events_of(location, 200, 3)
    mean, covariance = posterior_of(torch.ones(1, dtype=torch.float64))
    scale = torch.tensor([0.5, 1.0], dtype=torch.float64)
    pull = events.theta / scale - events.x.double() * mean
    quadratic = (pull @ torch.linalg.inv(covariance) * pull).sum(-1)
    expected = -0.5 * (quadratic + torch.logdet(2 * math.pi * covariance)) - scale.log().sum()
    torch.testing.assert_close(exact.posterior_log_prob(events.theta, events.x[:, None]), expected, rtol=2e-3, atol=2e-3)


def test_exact_scores_need_no_normalisation(exact: PosteriorScore, location: ExactToy) -> None:
    theta = torch.tensor([[0.3, 0.5], [-0.4, 1.0]], dtype=torch.float64)
    ratio = location.log_ratio(exact.reference_x, theta[0]).exp(), location.log_ratio(exact.reference_x, theta[1]).exp()
    weight = exact.reference_weight
    error = torch.stack([(weight * (each - 1)).square().sum().sqrt() for each in ratio])
    assert (exact.log_normalisation(theta).abs() < 4 * error).all()
    assert (error < 0.03).all()
    assert 0.2 < 1 / float(weight.square().sum()) / len(weight) < 0.99


@pytest.mark.parametrize(("sampler", "k"), [("ode", 1), ("sde", 1), ("sde", 10), pytest.param("sde", 100, marks=pytest.mark.slow)])
def test_draws_of_sets_have_the_closed_form(exact: PosteriorScore, location: ExactToy, sampler: str, k: int) -> None:
    exact.config.sampler = sampler
    n, x = 2_000, 0.4 + gaussian(4, 2, k)
    drawn = exact.posterior_sample(x[..., None], n, torch.Generator().manual_seed(5)) / torch.tensor([0.5, 1.0])
    for draws, events in zip(drawn, x, strict=True):
        mean, covariance = posterior_of(events)
        whitened = (draws - mean) @ torch.linalg.cholesky(torch.linalg.inv(covariance))
        assert (whitened.mean(0).abs() < 5 / n**0.5 + 0.03).all()
        assert (torch.cov(whitened.T) - torch.eye(2)).abs().max() < 5 * (2 / n) ** 0.5 + 0.05


def test_the_density_of_a_set_is_refused(exact: PosteriorScore) -> None:
    with pytest.raises(InputError, match="single events"):
        exact.posterior_log_prob(torch.zeros(3, 2), torch.zeros(3, 5, 1))


def untrained(location: ExactToy, **params: object) -> Estimator:
    """Random weights, the last layer included."""
    estimator = build_estimator("posterior_score", location.spec, hidden=(8, 8), **params).double()
    estimator.prepare(events_of(location, 500, 6))
    for seed, parameter in enumerate(estimator.parameters()):
        parameter.data = 0.3 * gaussian(seed, *parameter.shape, 1).squeeze(-1)
    return estimator


def test_a_potential_answers_the_integral_of_its_score(location: ExactToy) -> None:
    estimator = untrained(location, network="potential")
    events = events_of(location, 50, 7)
    gradient = Estimator.score(estimator, events.x, events.theta)
    torch.testing.assert_close(estimator.score(events.x, events.theta), gradient)


@pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")
def test_more_nodes_change_nothing(location: ExactToy) -> None:
    few, many = (untrained(location, nodes=nodes) for nodes in (8, 16))
    events = events_of(location, 50, 8)
    torch.testing.assert_close(few.log_ratio(events.x, events.theta), many.log_ratio(events.x, events.theta), rtol=1e-5, atol=1e-5)
    assert few.cost()["path_nodes"] == 8
