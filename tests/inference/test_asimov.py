"""Asimov data: both kinds give theta back, and differ where the model is wrong."""

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, asimov_from_model, asimov_from_simulator, fit
from touchneedle.toys.base import build_toy

N_SAMPLE = 40_000


def counting_and_shape():
    toy = build_toy("counting_and_shape")
    return toy, Likelihood(build_estimator("oracle", toy.spec, truth=toy).double(), toy.rates)


@pytest.fixture
def theta():
    return torch.tensor([1.3, 0.9, 0.7], dtype=torch.float64)


def simulated(toy, theta, generator):
    return toy.sample(theta.expand(N_SAMPLE, -1), generator=generator)


def test_a_fit_of_either_kind_returns_theta(generator, theta):
    toy, likelihood = counting_and_shape()
    kinds = {
        "simulator": asimov_from_simulator(likelihood, simulated(toy, theta, generator), theta),
        "model": asimov_from_model(likelihood, simulated(toy, toy.spec.parameters.nominal, generator), theta),
    }
    for kind, asimov in kinds.items():
        assert asimov.kind == kind
        assert asimov.expected_events == pytest.approx(float(toy.expected_events(theta[None])))
        result = fit(likelihood, asimov.events, auxiliary=asimov.auxiliary, asimov=True)
        assert result.valid
        pulls = (result.theta - theta) / (result.sigma * asimov.sample_error)
        assert pulls.abs().max() < 4
        assert 0.15 < asimov.sample_error < 0.2


def test_a_wrong_model_is_seen_by_the_simulator_alone(problems, generator):
    toy = problems.LinearGaussian()
    likelihood = Likelihood(problems.Truth(toy, shift=[0.2, 0.0]))
    theta, shift = torch.tensor([[0.3, 0.5], [0.2, 0.0]], dtype=torch.float64)
    # What this model calls nominal is the shifted point.
    reference = simulated(toy, shift, generator)
    kinds = {
        0.1: asimov_from_simulator(likelihood, simulated(toy, theta, generator), theta, 500),
        0.3: asimov_from_model(likelihood, reference, theta, 500),
    }
    for expected, asimov in kinds.items():
        result = fit(likelihood, asimov.events, auxiliary=asimov.auxiliary, asimov=True)
        assert abs(result.theta[0] - expected) < 4 * asimov.sample_error * result.sigma[0]
        assert 4 * asimov.sample_error * result.sigma[0] < 0.08


def test_asimov_data_of_a_shape_need_a_number(problems, generator):
    toy = problems.LinearGaussian()
    sample = toy.sample(torch.zeros(100, 2, dtype=torch.float64), generator=generator)
    nominal = toy.spec.parameters.nominal
    with pytest.raises(InputError, match="n_events"):
        asimov_from_simulator(Likelihood(problems.Truth(toy)), sample, nominal)
    with pytest.raises(InputError, match="positive sum of weights"):
        asimov_from_simulator(Likelihood(problems.Truth(toy)), sample.with_weight(-sample.weight), nominal, 10)
    with pytest.raises(InputError, match="got none"):
        asimov_from_model(Likelihood(problems.Truth(toy)), sample[:0], nominal, 10)
