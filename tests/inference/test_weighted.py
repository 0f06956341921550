"""Errors of weighted events: the sandwich in closed form, against repeated experiments, and where it is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit
from touchneedle.inference.weighted import curvature_beside_events
from touchneedle.toys.base import build_toy

TRUTH = torch.tensor([0.3, -0.2, 0.8, -0.5], dtype=torch.float64)
N = 2_000


@pytest.fixture(scope="module")
def toy():
    return build_toy("linear_gaussian")


def signed_weights(n, generator):
    """1.5 or -0.5, mean one; independent of the event, so that weighted events follow the same density."""
    return torch.where(torch.rand(n, generator=generator) < 0.75, 1.5, -0.5).double()


def weighted_events(toy, generator):
    events = toy.sample(TRUTH.expand(N, -1), generator=generator)
    return events.with_weight(signed_weights(N, generator))


def model(toy):
    """Whitened response (p, d) of the linear model, and the constraint of its nuisances (p, p)."""
    noise = 0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    return toy.response.numpy() @ np.linalg.inv(noise), np.diag([0.0, 0.0, 1.0, 1.0])


def likelihood_of(toy, rates=None):
    return Likelihood(build_estimator("oracle", toy.spec, truth=toy), rates)


def test_sandwich_in_closed_form(toy):
    events = weighted_events(toy, torch.Generator().manual_seed(1))
    result = fit(likelihood_of(toy), events)
    response, constraint = model(toy)
    weight, x = events.weight.numpy(), events.x.double().numpy()
    hessian = weight.sum() * response @ toy.response.numpy().T + constraint
    scores = (x - result.theta.numpy() @ toy.response.numpy()) @ response.T
    middle = (weight[:, None] ** 2 * scores).T @ scores + constraint
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(result.covariance, inverse @ middle @ inverse, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(result.inverse_hessian, inverse, rtol=1e-6, atol=1e-12)
    assert result.weighted
    assert "sandwich" in result.summary()
    assert "naive error" in result.summary()
    assert f"{float(result.naive_sigma[0]):.4g}" in result.summary()


def test_sandwich_is_the_spread_of_repeated_experiments(toy):
    """4,000 experiments in closed form, auxiliary measurements redrawn; the naive error is too small by sqrt(1.75)."""
    generator = torch.Generator().manual_seed(2)
    response, constraint = model(toy)
    reported = fit(likelihood_of(toy), weighted_events(toy, generator))
    count = 4_000
    weight = signed_weights(count * N, generator).reshape(count, N)
    # The sum of weighted events is Gaussian given the weights, with covariance sum w^2 times the noise.
    noise = np.linalg.cholesky(0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4))))
    total, spread = weight.sum(1).numpy(), weight.square().sum(1).sqrt().numpy()
    draws = torch.randn(count, 8, generator=generator, dtype=torch.float64).numpy()
    sums = total[:, None] * (TRUTH.numpy() @ toy.response.numpy()) + spread[:, None] * draws[:, :4] @ noise.T
    measured = TRUTH.numpy() + draws[:, 4:]
    hessian = total[:, None, None] * (response @ toy.response.numpy().T) + constraint
    best = np.linalg.solve(hessian, (sums @ response.T + measured @ constraint)[..., None])[..., 0]
    sigma = best.std(0)
    # Standard errors: of the spread 1 / sqrt(2 count), of the sandwich about sqrt(2 E w^4 / E w^2 ^2) / sqrt(N) / 2.
    error = math.hypot((2 * count) ** -0.5, 0.5 * (2 * 1.3 / N) ** 0.5)
    assert np.abs(reported.sigma.numpy() / sigma - 1).max() < 4.5 * error
    assert (reported.naive_sigma.numpy()[:2] < 0.95 * sigma[:2]).all()


def test_yield_of_weighted_events_has_the_error_of_their_squares(problems, generator):
    """Without shape ln L = W ln nu - nu, so that nu = W, and its variance is sum w^2."""
    toy = problems.SignalStrength()
    events = toy.sample(torch.ones(1, 1, dtype=torch.float64).expand(2_000, -1), generator=generator)
    events = events.with_weight(0.2 + 0.8 * torch.rand(2_000, generator=generator, dtype=torch.float64))
    result = fit(Likelihood(problems.Truth(toy, factor=0.0), toy.rates), events)
    total = float(events.weight.sum())
    assert float(result.theta[0]) == pytest.approx((total - 700) / 300, rel=1e-6)
    assert float(result.sigma[0]) == pytest.approx(float(events.weight.square().sum()) ** 0.5 / 300, rel=1e-6)
    assert float(result.naive_sigma[0]) == pytest.approx(total**0.5 / 300, rel=1e-6)


def test_normalised_scores_enter(problems):
    """An estimator off by a factor e^drift is corrected event by event: the same errors as of the exact one."""
    toy, generator = problems.LinearGaussian(), torch.Generator().manual_seed(1)
    events = toy.sample(torch.tensor([0.3, 0.5], dtype=torch.float64).expand(400, -1), generator=generator)
    events = events.with_weight(signed_weights(400, generator))
    exact, corrected = (fit(Likelihood(kind(toy)), events) for kind in (problems.Truth, problems.Drifting))
    assert corrected.normalisation is not None
    torch.testing.assert_close(corrected.covariance, exact.covariance, rtol=1e-5, atol=1e-10)


def test_unit_weights_and_asimov_data_keep_the_hessian(toy):
    events = toy.sample(TRUTH.expand(200, -1), generator=torch.Generator().manual_seed(3))
    plain = fit(likelihood_of(toy), events)
    assert torch.equal(plain.covariance, plain.inverse_hessian)
    assert not plain.weighted
    asimov = fit(likelihood_of(toy), events.with_weight(10 * events.weight), asimov=True)
    assert torch.equal(asimov.covariance, asimov.inverse_hessian)
    assert not asimov.weighted


def test_counts_of_control_regions_are_data_of_weight_one(toy):
    """120 counts where 100 (1 + theta_1) are expected: minus the second derivative of 120 ln(1 + theta_1) - 100 theta_1."""
    likelihood = SimpleNamespace(
        parameters=toy.spec.parameters,
        control=SimpleNamespace(
            observed=torch.tensor([120.0], dtype=torch.float64),
            log_prob=lambda theta, counts: (counts * theta[:, :1].log1p() - 100 * theta[:, :1]).sum(-1),
        ),
    )
    found = curvature_beside_events(likelihood, TRUTH, torch.zeros(4, dtype=torch.float64))
    np.testing.assert_allclose(found, np.diag([120 / 1.3**2, 0, 1, 1]), rtol=1e-12, atol=1e-12)


class Bare:
    """A likelihood of which only the interface is known."""

    def __init__(self, inner):
        self.inner = inner

    @property
    def parameters(self):
        return self.inner.parameters

    def value_and_gradient(self, theta, events, auxiliary=None):
        return self.inner.value_and_gradient(theta, events, auxiliary)

    def objective(self, events, auxiliary=None):
        objective = self.inner.objective(events, auxiliary)
        return lambda theta, rows: objective(theta, rows)


class WithScores(Bare):
    def event_scores(self, theta, events):
        return self.inner.estimator.score(events.x, theta)


def test_other_likelihoods_are_fitted_and_asked_for_their_scores(toy):
    likelihood = likelihood_of(toy)
    events = weighted_events(toy, torch.Generator().manual_seed(4))[:500]
    wanted = fit(likelihood, events)
    with pytest.raises(InputError, match="expected a likelihood with event_scores.*Bare has none"):
        fit(Bare(likelihood), events)
    found = fit(WithScores(likelihood), events)
    assert found.hessian == "differences"
    assert ((found.theta - wanted.theta) / wanted.sigma).abs().max() < 1e-6
    torch.testing.assert_close(found.covariance, wanted.covariance, rtol=1e-5, atol=1e-10)
