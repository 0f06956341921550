"""Fits against closed forms to 1e-6, HESSE, an independent fit of the density; bounds, rivals, summaries, bad data."""

import json
import math

import numpy as np
import pytest
import torch
from iminuit import Minuit
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit
from touchneedle.inference.curvature import hessian
from touchneedle.inference.fittable import ROW, region
from touchneedle.toys.base import Events, build_toy


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(name, truth, n, seed=1, rates=False, **options):
    """A toy, its exact likelihood, and n events at a point."""
    toy = build_toy(name, **options)
    events = toy.sample(column(*truth).expand(n, -1), generator=torch.Generator().manual_seed(seed))
    return toy, Likelihood(build_estimator("oracle", toy.spec, truth=toy), toy.rates if rates else None), events


def linear_closed_form(toy, events, measured):
    """Best fit and covariance of the linear model by numpy: information n R S^-1 R^T plus the constraints."""
    d = toy.config.dim
    noise = toy.config.correlation ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    response = toy.response.numpy()
    weight = events.weight.numpy()
    constraint = np.diag([0.0] * toy.config.interest + [1.0] * toy.config.nuisances)
    information = weight.sum() * response @ np.linalg.solve(noise, response.T) + constraint
    right = response @ np.linalg.solve(noise, weight @ events.x.double().numpy()) + constraint @ measured
    return np.linalg.solve(information, right), np.linalg.inv(information)


LINEAR = (0.3, -0.2, 0.8, -0.5)
MEASURED = column(0.0, 0.0, 1.2, -0.4)


def test_linear_model_in_closed_form():
    toy, likelihood, events = problem("linear_gaussian", LINEAR, 1_000)
    theta, covariance = linear_closed_form(toy, events, MEASURED.numpy())
    result = fit(likelihood, events, auxiliary=MEASURED)
    sigma = np.sqrt(covariance.diagonal())
    np.testing.assert_allclose(result.theta, theta, rtol=1e-6)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(result.sigma, sigma, rtol=1e-6)
    np.testing.assert_allclose(result.pull[2:], theta[2:] - MEASURED.numpy()[2:], rtol=1e-6)
    np.testing.assert_allclose(result.constraint[2:], sigma[2:], rtol=1e-6)
    np.testing.assert_allclose(result.correlation, covariance / np.outer(sigma, sigma), rtol=1e-6, atol=1e-12)
    assert result.pull[:2].isnan().all()
    assert (result.hessian, result.valid, result.weighted) == ("exact", True, False)
    assert result.edm < 1e-12


def test_shifted_gaussian_in_closed_form():
    """Offset and shift are degenerate but for the constraint; the scale solves one equation, (1 - S e^(-2 b l)) n b = l - t."""
    toy, likelihood, events = problem("gaussian_shift", (0.1, 0.5, -0.5), 500)
    x, (a, b), n = events.x[:, 0].double().numpy(), (toy.config.a, toy.config.b), 500
    result = fit(likelihood, events, auxiliary=column(0.0, 0.3, 0.2))
    scale = float(result.theta[2])
    spread = np.mean((x - x.mean()) ** 2) * math.exp(-2 * b * scale)
    assert n * b * (spread - 1) == pytest.approx(scale - 0.2, rel=1e-6)
    np.testing.assert_allclose(result.theta[:2], [x.mean() - a * 0.3, 0.3], rtol=1e-6)
    variance = math.exp(2 * b * scale) / n
    np.testing.assert_allclose(result.covariance[:2, :2], [[variance + a**2, -a], [-a, 1.0]], rtol=1e-6)
    assert float(result.sigma[2]) == pytest.approx((2 * b**2 * n * spread + 1) ** -0.5, rel=1e-6)


def bump_density(mass, fraction, scale, resolution):
    mean, width = 125 * (1 + 0.01 * scale), 2 * np.exp(0.2 * resolution)
    signal = stats.truncnorm((100 - mean) / width, (160 - mean) / width, mean, width).pdf(mass)
    return fraction * signal + (1 - fraction) * stats.truncexpon(60 * 0.03, 100, 1 / 0.03).pdf(mass)


def bump_cost(x, t):
    def cost(fraction, scale, resolution):
        return -np.log(bump_density(x[:, 0], fraction, scale, resolution)).sum() + 0.5 * ((t[1:] - [scale, resolution]) ** 2).sum()

    return cost


def region_cost(x, t):
    """Signal and control region: yields in units of 1000 / 2.5 events, peak of 3 GeV on a falling background."""
    control, mass = x[:, 0] == 1, x[:, 1]

    def cost(mu, beta, nu):
        mean, unit = 125 * (1 + 0.01 * nu), 1_000 / 2.5
        signal = unit * 0.5 * mu * np.exp(0.1 * nu) * stats.truncnorm((100 - mean) / 3, (160 - mean) / 3, mean, 3).pdf(mass)
        background = unit * beta * stats.truncexpon(60 * 0.03, 100, 1 / 0.03).pdf(mass)
        total = unit * (0.5 * mu * np.exp(0.1 * nu) + 2 * beta)
        return total - np.log(np.where(control, background, signal + background)).sum() + 0.5 * (t[2] - nu) ** 2

    return cost


@pytest.mark.parametrize(
    ("name", "truth", "measured", "cost", "rates"),
    [
        ("mass_bump", (0.3, 0.5, -0.4), (0.0, 0.7, -0.9), bump_cost, False),
        ("counting_and_shape", (1.3, 0.9, 0.6), (0.0, 0.0, -0.3), region_cost, True),
    ],
)
def test_an_independent_fit_of_the_density_agrees(name, truth, measured, cost, rates):
    _, likelihood, events = problem(name, truth, 600, rates=rates)
    result = fit(likelihood, events, auxiliary=column(*measured))
    minuit = Minuit(cost(events.x.double().numpy(), np.array(measured)), *truth)
    minuit.errordef, minuit.strategy, minuit.tol = 0.5, 2, 1e-5
    minuit.migrad()
    minuit.hesse()
    sigma = np.array(minuit.errors)
    np.testing.assert_allclose((result.theta.numpy() - np.array(minuit.values)) / sigma, 0, atol=1e-4)
    np.testing.assert_allclose(result.sigma, sigma, rtol=2e-3)
    np.testing.assert_allclose(result.covariance, minuit.covariance, atol=5e-3 * np.outer(sigma, sigma).max())


def test_exact_hessian_and_differences_agree(problems):
    """For the mixture, which is not quadratic, far from its maximum too."""
    toy = problems.Mixture()
    events = toy.sample(column(0.5, 0.3, -0.2).expand(400, -1), generator=torch.Generator().manual_seed(1))
    objective = Likelihood(problems.Truth(toy), toy.rates).objective(events)
    limits = torch.stack([toy.spec.parameters.low, toy.spec.parameters.high])
    theta, sigma = column(0.55, 0.4, -0.5), column(0.03, 0.3, 0.3)
    exact, method = hessian(objective, theta, sigma, region(toy.spec.parameters, limits))
    numeric, other = hessian(lambda *point: objective(*point), theta, sigma, region(toy.spec.parameters, limits))
    assert (method, other) == ("exact", "differences")
    torch.testing.assert_close(exact, numeric, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_a_hessian_that_misses_the_kinks_is_not_believed(problems):
    """-|r| - r^2 / 10 of the residual r bends five times as much, summed over events, as its second derivative says."""
    toy, n = problems.LinearGaussian(), 20_000

    class Kinked(problems.Truth):
        def _log_ratio(self, x, theta):
            residual = x - theta @ toy.response.T
            return -(residual.abs() + 0.1 * residual.square()).sum(-1)

    events = toy.sample(column(0.3, 0.5).expand(n, -1), generator=torch.Generator().manual_seed(1))
    result = fit(Likelihood(Kinked(toy)), events)
    assert result.hessian == "differences"
    # Minus the Hessian is twice the density of the residuals at zero, 2 / sqrt(2 pi), beside the 0.2 that is seen. About 300
    # kinks are crossed per parameter, so that the errors are known within 3 %.
    response = toy.response.numpy()
    expected = np.linalg.inv(n * (2 / math.sqrt(2 * math.pi) + 0.2) * response.T @ response + np.diag([0.0, 1.0]))
    np.testing.assert_allclose(result.sigma, np.sqrt(expected.diagonal()), rtol=0.12)


def test_a_parameter_at_its_bound_is_named():
    """No signal and a deficit under the peak: the fraction is 0, the others are fitted given that."""
    _, likelihood, events = problem("mass_bump", (0.0, 0.0, 0.0), 400)
    outside = events[(events.x[:, 0] - 125).abs() > 4]
    result = fit(likelihood, outside)
    assert result.at_bound == ("fraction",)
    assert result.valid
    assert float(result.theta[0]) == 0.0
    assert "fraction" in result.summary().split("at a bound of the fit")[1]
    value, gradient = likelihood.value_and_gradient(result.theta, outside)
    assert gradient[0] < 0
    assert gradient[1:].abs().max() < 1e-6
    assert result.value == pytest.approx(float(value))


def test_rival_minima_are_reported_and_the_best_is_kept():
    """The amplitude sqrt(mu) gives ln L two maxima in mu, wherever the search starts."""
    _, likelihood, events = problem("amplitude_interference", (1.0, 0.0), 1_000)
    objective = likelihood.objective(events)
    wanted = fit(likelihood, events, start=column(1.0, 0.0))
    result = fit(likelihood, events, start=column(0.02, 0.0), starts=8)
    assert result.starts == 8
    torch.testing.assert_close(result.theta, wanted.theta, rtol=1e-6, atol=1e-6)
    assert [minimum.distance for minimum in result.minima] == sorted(minimum.distance for minimum in result.minima)
    assert result.minima[0].distance == 0
    for minimum in result.minima[1:]:
        value, _ = objective(minimum.theta[None], ROW)
        assert 2 * (result.value - float(value)) == pytest.approx(minimum.distance, abs=1e-6)
        assert f"{minimum.distance:.3g} higher" in result.summary()
    assert len(result.minima) == 2
    again = fit(likelihood, events, start=column(0.02, 0.0), starts=8)
    assert torch.equal(again.theta, result.theta)


def test_summary_and_json():
    _, likelihood, events = problem("linear_gaussian", LINEAR, 1_000)
    result = fit(likelihood, events, auxiliary=MEASURED)
    lines = result.summary().splitlines()
    assert lines[0].split() == ["parameter", "value", "error", "pull", "constraint"]
    assert lines[1].split()[:4] == ["theta_1", f"{float(result.theta[0]):.6g}", "+-", f"{float(result.sigma[0]):.4g}"]
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [entry["name"] for entry in written["parameters"]] == list(result.names)
    assert written["parameters"][0]["pull"] is None
    assert written["parameters"][2]["pull"] == pytest.approx(float(result.pull[2]))
    assert written["covariance"] == result.covariance.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda events: events[:0], "at least one"),
        (lambda events: Events(events.x * torch.nan, events.theta, events.weight), "feature x_1: expected finite numbers; 50 are not"),
        (lambda events: events.with_weight(-events.weight), "all 50 are negative"),
        (lambda events: events.with_weight(events.weight * torch.nan), "finite weights"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_fitted(change, words):
    _, likelihood, events = problem("linear_gaussian", LINEAR, 50)
    with pytest.raises(InputError, match=words):
        fit(likelihood, change(events))


def test_a_density_that_is_not_positive_is_refused():
    toy = build_toy("signed_mixture")
    negative = torch.zeros(10, toy.spec.x_dim)
    theta = toy.spec.parameters.nominal.clone()
    theta[0] = toy.spec.parameters.high[0]
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy))
    with pytest.raises(InputError, match="positive density at every event; at mu=.* it is not at 10 of 10"):
        fit(likelihood, Events(negative, theta.expand(10, -1), torch.ones(10)), start=theta)
