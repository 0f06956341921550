"""Fits of events by MINUIT: closed forms, agreement with the batched fits, scans, bad input."""

import subprocess
import sys

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.inference import FitOptions, Likelihood, fit, fit_pseudo_experiments, profile_scan
from touchneedle.inference.terms import fit_limits


@pytest.fixture
def events(problems, generator):
    toy = problems.LinearGaussian()
    return toy.sample(torch.tensor([0.3, 0.5], dtype=torch.float64).expand(400, -1), generator=generator)


def expected(toy, events, measured=0.0):
    n = events.weight.sum()[None]
    mean = (events.weight @ events.x)[None] / n
    theta, covariance = toy.closed_form(mean, n, torch.tensor([measured], dtype=torch.float64))
    return theta[0], covariance[0]


def test_fit_equals_the_closed_form(problems, events):
    toy = problems.LinearGaussian()
    result = fit(Likelihood(problems.Truth(toy)), events, auxiliary=torch.tensor([0.0, 0.7]))
    theta, covariance = expected(toy, events, 0.7)
    assert result.valid
    assert result.reason == ""
    assert torch.allclose(result.theta, theta, atol=1e-3 * float(covariance.max().sqrt()))
    assert torch.allclose(result.covariance, covariance, rtol=1e-4)
    assert result.calls > 0


def test_weights_count_as_events(problems, events):
    toy = problems.LinearGaussian()
    weighted = events.with_weight(0.5 + torch.arange(400, dtype=torch.float64) / 400)
    result = fit(Likelihood(problems.Truth(toy)), weighted)
    assert torch.allclose(result.theta, expected(toy, weighted)[0], atol=1e-4)


def test_gradient_is_that_of_the_value(problems, events):
    likelihood = Likelihood(problems.Truth(problems.LinearGaussian()))
    theta = torch.tensor([0.1, -0.4], dtype=torch.float64)
    _, gradient = likelihood.value_and_gradient(theta, events)
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-4
        numeric = (likelihood.value(theta + step, events) - likelihood.value(theta - step, events)) / 2e-4
        assert abs(numeric - gradient[k]) < 1e-6 * abs(gradient[k]) + 1e-5


def test_profile_scan_is_a_parabola(problems, events):
    toy = problems.LinearGaussian()
    theta, covariance = expected(toy, events)
    sigma = float(covariance[0, 0].sqrt())
    values = theta[0] + sigma * torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    scan = profile_scan(Likelihood(problems.Truth(toy)), events, "mu", values)
    assert scan.valid.all()
    assert torch.allclose(scan.t, torch.tensor([4.0, 1.0, 0.0, 1.0, 4.0], dtype=torch.float64), atol=1e-3)


def test_minuit_and_batched_fits_agree(problems, draw):
    toy = problems.Mixture()
    experiments = draw(toy, [0.5, 0.3, -0.2], 500, 5)
    batched = fit_pseudo_experiments(problems.Truth(toy), experiments, options=FitOptions(method="batched"))
    likelihood = Likelihood(problems.Truth(toy))
    for e in range(5):
        chosen = experiments.pool[experiments.index[experiments.owner == e]]
        auxiliary = experiments.auxiliary[e]
        single = fit(likelihood, chosen, auxiliary=auxiliary)
        assert single.valid
        assert ((single.theta - batched.theta[e]) / single.sigma).abs().max() < 0.005
        assert (single.sigma / batched.sigma[e] - 1).abs().max() < 0.01
        scan = profile_scan(likelihood, chosen, "f", experiments.theta_true[:1], auxiliary, single)
        assert abs(scan.t[0] - batched.t_true[e, 0]) < 1e-3


def test_absolute_rates_enter_as_an_extended_likelihood(problems, generator):
    toy = problems.SignalStrength()
    events = toy.sample(torch.tensor([[1.0]], dtype=torch.float64).expand(1_300, -1), generator=generator)
    result = fit(Likelihood(problems.Truth(toy), rates=toy.rates), events)
    # 1,300 events where 1,000 are expected at mu = 1: the rate pulls mu to 2, the shape to 1.
    assert result.valid
    assert 1.2 < result.theta[0] < 2.0


def test_local_normalisation_is_found_around_the_fit(problems, events):
    toy = problems.LinearGaussian()
    result = fit(Likelihood(problems.Drifting(toy)), events)
    assert result.normalisation is not None
    assert result.normalisation.residual < 1e-10
    assert torch.allclose(result.theta, expected(toy, events)[0], atol=1e-4)


def test_a_ratio_that_runs_away_is_followed_from_its_start(problems, generator):
    """Without normalisation ln L rises towards both bounds of a nuisance, where nothing is known of it any more."""

    class Steep(problems.Drifting):
        def _drift(self, theta):
            return 5 * theta[:, 1] ** 2

        def log_normalisation(self, theta):
            return torch.where(theta[:, 1].abs() < 2.5, self._drift(theta), 0.0)

    toy = problems.Mixture()
    events = toy.sample(torch.tensor([[0.5, 0.3, -0.2]], dtype=torch.float64).expand(500, -1), generator=generator)
    exact, found = (fit(Likelihood(estimator(toy)), events) for estimator in (problems.Truth, Steep))
    assert found.valid
    assert not found.at_bound
    assert ((found.theta - exact.theta) / exact.sigma).abs().max() < 0.05


def test_learned_estimators_stay_within_four_sigma_of_gaussian_priors(problems):
    toy = problems.LinearGaussian()
    learned, control = problems.Truth(toy), problems.Truth(toy)
    control.needs_truth = True
    assert fit_limits(learned).tolist() == [[-4.0, -12.0], [4.0, 12.0]]
    assert fit_limits(control).isinf().all()


def test_best_of_several_starts(problems, events):
    toy = problems.LinearGaussian()
    starts = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    result = fit(Likelihood(problems.Truth(toy)), events, start=starts)
    assert torch.allclose(result.theta, expected(toy, events)[0], atol=1e-4)


def test_bad_input_is_one_line(problems, events):
    toy = problems.LinearGaussian(bounds=(-1.0, 1.0))
    likelihood = Likelihood(problems.Truth(toy))
    with pytest.raises(InputError, match=r"mu: expected a value in \[-1, 1\]; got 3"):
        fit(likelihood, events, start=torch.tensor([3.0, 0.0]))
    with pytest.raises(InputError, match="one measurement per parameter"):
        fit(likelihood, events, auxiliary=torch.zeros(3))
    with pytest.raises(InputError, match="unknown parameter 'nope'"):
        profile_scan(likelihood, events, "nope", torch.zeros(1))


def test_infinite_likelihood_is_invalid_with_a_reason(problems, events):
    estimator = problems.Truth(problems.LinearGaussian(), factor=float("inf"))
    result = fit(Likelihood(estimator), events)
    assert not result.valid
    assert "not finite" in result.reason


def test_inference_needs_the_base_install_only():
    code = (
        "import sys, touchneedle.inference; "
        "heavy = {'hydra', 'lightning', 'pandas', 'matplotlib', 'zuko', 'sklearn', 'seaborn', 'jinja2'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
