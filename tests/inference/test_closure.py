"""Post-fit closure: chi2 distributed as such under the model, histograms by numpy, planted distortions, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.inference import Likelihood, closure, fit
from touchneedle.toys.base import build_toy


@pytest.fixture(scope="module")
def problem():
    """Counting and shape at a point off nominal: its likelihood, a fit, reference events, and how to draw data."""
    toy = build_toy("counting_and_shape")
    truth = torch.tensor([1.3, 0.9, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy), toy.rates)
    reference = toy.sample(toy.spec.parameters.nominal.expand(50_000, -1), generator=generator)

    def draw():
        n = int(torch.poisson(toy.expected_events(truth[None]), generator=generator))
        return toy.sample(truth.expand(n, -1), generator=generator)

    return likelihood, replace(fit(likelihood, draw()), theta=truth), reference, draw


def test_chi2_has_the_distribution_of_its_name_at_the_truth(problem):
    likelihood, at_truth, reference, draw = problem
    found = [closure(likelihood, draw(), at_truth, reference, bins=15) for _ in range(60)]
    for k, name in enumerate(("region", "mass")):
        one = [result.features[k] for result in found]
        assert {entry.feature.name for entry in one} == {name}
        dof = sum(entry.dof for entry in one)
        assert sum(entry.chi2 for entry in one) == pytest.approx(dof, abs=4.5 * (2 * dof) ** 0.5)
        assert stats.kstest([entry.p_value for entry in one], "uniform").pvalue > 1e-4


def test_the_model_is_the_exact_expectation(problem):
    """Reweighted reference events against the integral of the exact density, within their own errors."""
    likelihood, at_truth, reference, draw = problem
    mass = closure(likelihood, draw(), at_truth, reference).features[1]
    grid = np.linspace(100, 160, 6_001)
    toy = likelihood.estimator.toy
    density = sum(
        toy.log_prob(torch.stack([torch.full((6_001,), region).double(), torch.from_numpy(grid)], -1), at_truth.theta).exp().numpy()
        for region in (0.0, 1.0)
    )
    integral = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
    total = float(toy.expected_events(at_truth.theta[None]))
    wanted = total * np.diff(np.interp(mass.edges.numpy(), grid, integral))
    error = (mass.variance - mass.model).numpy() ** 0.5
    assert np.abs((mass.model.numpy()[1:-1] - wanted[1:-1]) / error[1:-1]).max() < 4.5
    assert float(mass.model.sum()) == pytest.approx(total, rel=1e-9)


def test_data_are_counted_as_numpy_does(problem):
    likelihood, at_truth, reference, draw = problem
    events = draw()
    events = events.with_weight(torch.linspace(0.5, 1.5, len(events), dtype=torch.float64))
    result = closure(likelihood, events, at_truth, reference)
    for k, one in enumerate(result.features):
        counted, _ = np.histogram(events.x[:, k].double().numpy(), one.edges.numpy(), weights=events.weight.numpy())
        np.testing.assert_allclose(one.data, counted)
    assert result.observed == pytest.approx(float(events.weight.sum()))


def test_a_distortion_is_seen_in_its_feature(problem):
    likelihood, at_truth, reference, draw = problem
    events = draw()
    distorted = replace(events, x=torch.stack([events.x[:, 0], 100 + 0.9 * (events.x[:, 1] - 100)], -1))
    region, mass = closure(likelihood, distorted, at_truth, reference).features
    assert mass.p_value < 1e-4
    assert region.p_value > 1e-3


def test_missing_values_are_left_out_and_rare_values_merged():
    toy = build_toy("mixed_multiplicity")
    nominal, generator = toy.spec.parameters.nominal, torch.Generator().manual_seed(2)
    events, reference = (toy.sample(nominal.expand(n, -1), generator=generator) for n in (1_000, 20_000))
    likelihood = Likelihood(build_estimator("oracle", toy.spec, truth=toy))
    best = replace(fit(likelihood, events), theta=nominal)
    result = closure(likelihood, events, best, reference)
    missing = {feature.name: feature.missing for feature in toy.spec.features}
    for k, one in enumerate(result.features):
        there = (
            events.x[:, k] != missing[one.feature.name] if missing[one.feature.name] is not None else torch.ones(1_000, dtype=torch.bool)
        )
        assert float(one.data.sum()) == pytest.approx(float(there.sum()))
        assert one.model.min() >= 10 - 1e-9
        assert one.p_value > 1e-4
    assert result.features[0].discrete
    assert "p-value" in result.summary()


def test_bad_input_is_one_line(problem):
    likelihood, at_truth, reference, draw = problem
    with pytest.raises(InputError, match="expected reference events at the nominal point; got none"):
        closure(likelihood, draw(), at_truth, reference[:0])
    with pytest.raises(InputError, match="reweighted total is positive"):
        closure(likelihood, draw(), at_truth, reference.with_weight(-reference.weight))
