"""Impacts and pulls against closed forms and refits; the error of training; bad input."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, fit, impacts
from touchneedle.toys.base import build_toy


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


MEASURED = column(0.0, 0.0, 1.2, -0.4)


@pytest.fixture(scope="module")
def linear():
    toy = build_toy("linear_gaussian")
    events = toy.sample(column(0.3, -0.2, 0.8, -0.5).expand(1_000, -1), generator=torch.Generator().manual_seed(1))
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy))
    return toy, likelihood, events, fit(likelihood, events, auxiliary=MEASURED)


def closed_form(toy, events, measured, held=None):
    """Best fit by numpy, with one parameter held at a value if said."""
    noise = 0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    response = toy.response.numpy()
    constraint = np.diag([0.0, 0.0, 1.0, 1.0])
    information = len(events) * response @ np.linalg.solve(noise, response.T) + constraint
    right = response @ np.linalg.solve(noise, events.x.double().numpy().sum(0)) + constraint @ measured
    if held is not None:
        k, value = held
        right = right - information[:, k] * value
        information[k], information[:, k], information[k, k], right[k] = 0, 0, 1, value
    return np.linalg.solve(information, right)


@pytest.mark.parametrize("method", ["refit", "linear"])
def test_linear_model_in_closed_form(linear, method):
    toy, likelihood, events, best = linear
    found = impacts(likelihood, events, best, "theta_1", method)
    measured, centre = MEASURED.numpy(), best.theta.numpy()
    for name, k in (("nu_1", 2), ("nu_2", 3)):
        one = found.of(name)
        for size, shift in ((float(best.sigma[k]), one.after), (1.0, one.before)):
            wanted = [closed_form(toy, events, measured, (k, centre[k] + side * size))[0] - centre[0] for side in (-1, 1)]
            assert shift == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        step = np.eye(4)[k]
        wanted = [closed_form(toy, events, measured + side * step)[0] - centre[0] for side in (-1, 1)]
        assert one.auxiliary == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert one.pull == pytest.approx(centre[k] - measured[k], rel=1e-6)
        assert one.constraint == pytest.approx(float(best.sigma[k]), rel=1e-6)
    assert [one.parameter for one in found.impacts] == ["nu_1", "nu_2"]
    # The statistical error is that of a fit whose auxiliary measurements are known to be right: C I C of the events alone.
    noise = 0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    per_event = toy.response.numpy() @ np.linalg.solve(noise, toy.response.numpy().T)
    covariance = best.covariance.numpy()
    assert found.statistical == pytest.approx((covariance @ (1_000 * per_event) @ covariance)[0, 0] ** 0.5, rel=1e-6)
    assert found.total == pytest.approx(covariance[0, 0] ** 0.5, rel=1e-6)
    components = sum(((one.auxiliary[1] - one.auxiliary[0]) / 2) ** 2 for one in found.impacts)
    assert found.statistical**2 + components == pytest.approx(found.total**2, rel=1e-6)


def test_refits_are_fits_and_the_linear_path_is_their_slope():
    """On counting and shape, which is not linear: moved auxiliary data fitted again, and both methods for small moves."""
    toy = build_toy("counting_and_shape")
    events = toy.sample(column(1.2, 1.0, 0.3).expand(800, -1), generator=torch.Generator().manual_seed(1))
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy), toy.rates)
    best = fit(likelihood, events)
    refit, linear = (impacts(likelihood, events, best, method=method) for method in ("refit", "linear"))
    assert refit.parameter == "mu"
    one = refit.of("energy_scale")
    for side in (0, 1):
        moved = fit(likelihood, events, auxiliary=column(0.0, 0.0, (-1.0, 1.0)[side]))
        assert one.auxiliary[side] == pytest.approx(float(moved.theta[0] - best.theta[0]), abs=1e-5 * float(best.sigma[0]))
        assert one.after[side] == pytest.approx(linear.of("energy_scale").after[side], rel=0.2)
    # The mean of both sides has no curvature to first order: what remains is of third order in a tenth of a sigma.
    mean = (one.auxiliary[1] - one.auxiliary[0]) / 2
    assert mean == pytest.approx(linear.of("energy_scale").auxiliary[1], rel=0.02)
    # A free nuisance has no pull, and no error before the fit.
    free = refit.of("background")
    assert all(math.isnan(value) for value in (free.pull, *free.before, *free.auxiliary))
    assert np.sign(free.after[0]) == -np.sign(free.after[1])


def test_refits_that_find_a_better_fit_say_so():
    """The amplitude sqrt(mu) has two maxima in mu: a fit that ends in the lower one is found out."""
    toy = build_toy("amplitude_interference")
    events = toy.sample(column(1.0, 0.0).expand(1_000, -1), generator=torch.Generator().manual_seed(1))
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy))
    trapped, found = (fit(likelihood, events, start=column(mu, 0.0)) for mu in (0.02, 1.0))
    assert found.value > trapped.value + 1
    knows_the_rival = replace(trapped, minima=(*trapped.minima, found.minima[0]))
    result = impacts(likelihood, events, knows_the_rival, "mu")
    assert result.above > 1
    assert "starts=20" in result.summary()
    assert impacts(likelihood, events, found, "mu").above < 1e-6


def test_the_error_of_training_is_one_more_impact(linear):
    toy, _, events, _ = linear
    likelihood = Likelihood(_with_known_error(toy))
    best = fit(likelihood, events, auxiliary=MEASURED)
    found = impacts(likelihood, events, best, "theta_1").of("training")
    # One mode m = 0.01 theta_1 for every event: it moves the fit by C e_1 times 0.01 n.
    assert found.auxiliary == pytest.approx([-10 * float(best.covariance[0, 0]), 10 * float(best.covariance[0, 0])], rel=1e-6)
    assert math.isnan(found.pull)


def _with_known_error(toy):
    estimator = build_estimator("oracle", toy.spec, truth=toy)

    class Knows(type(estimator)):
        def log_ratio_modes(self, x, theta):
            return 0.01 * theta[:, :1].expand(len(x), 1)

        def log_normalisation_modes(self, theta):
            return torch.zeros(len(theta), 1, dtype=torch.float64)

    return Knows(toy.spec, estimator.config, toy)


def test_summary_and_json(linear):
    _, likelihood, events, best = linear
    found = impacts(likelihood, events, best, "theta_1", "linear")
    lines = found.summary().splitlines()
    assert lines[0].startswith("impacts on theta_1 = ")
    assert lines[2].split()[0] == "nu_1"
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["impacts"][0]["parameter"] == "nu_1"


def test_bad_input_is_one_line(linear):
    _, likelihood, events, best = linear
    with pytest.raises(InputError, match="unknown parameter 'nope'"):
        impacts(likelihood, events, best, "nope")
    with pytest.raises(InputError, match="refit or linear; got 'both'"):
        impacts(likelihood, events, best, method="both")
    with pytest.raises(InputError, match="there is none of 'theta_2'; known: nu_1, nu_2"):
        impacts(likelihood, events, best, method="linear").of("theta_2")
