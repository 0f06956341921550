"""Estimators in closed form against exact answers: controls, best Gaussian, template histogram."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.check_subject import design_points
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.oracle_shifted import profiled_sigma
from touchneedle.estimators.template_histogram import TemplateHistogram
from touchneedle.toys.base import Events, ExactToy, SimulatedToy, Toy


def draw(toy: SimulatedToy, n: int, seed: int, design: str = "prior") -> Events:
    generator = torch.Generator().manual_seed(seed)
    theta = design_points(toy, "templates" if design == "templates" else "prior", n, generator)
    return toy.sample(theta, generator=generator)


def test_oracle_is_the_toy(location: ExactToy) -> None:
    events = draw(location, 50, 0)
    oracle = build_estimator("oracle", location.spec, truth=location)
    assert torch.equal(oracle.log_ratio(events.x, events.theta), location.log_ratio(events.x, events.theta))
    torch.testing.assert_close(oracle.score(events.x, events.theta), location.score(events.x, events.theta))


def test_oracle_narrow_is_too_confident(location: ExactToy) -> None:
    events = draw(location, 50, 0)
    narrow = build_estimator("oracle_narrow", location.spec, truth=location)
    torch.testing.assert_close(0.81 * narrow.log_ratio(events.x, events.theta), location.log_ratio(events.x, events.theta))


def test_profiled_sigma_of_a_location_with_a_constrained_shift(location: ExactToy) -> None:
    # x - 0.3 nu estimates mu: variance 1 / n + 0.09; nu keeps its constraint.
    expected = torch.tensor([math.sqrt(1 / location.fit_events + 0.3**2), 1.0], dtype=torch.float64)
    # The Fisher information itself is the mean of 20,000 squares of N(0, 1).
    torch.testing.assert_close(profiled_sigma(location), expected, rtol=4 * math.sqrt(2 / 20_000), atol=0)


def test_oracle_shifted_moves_parameters_of_interest_by_half_a_sigma(location: ExactToy) -> None:
    events = draw(location, 50, 0)
    delta = torch.tensor([0.5 * profiled_sigma(location)[0], 0.0])
    shifted = build_estimator("oracle_shifted", location.spec, truth=location)
    expected = location.log_prob(events.x, events.theta + delta) - location.log_prob(events.x, delta)
    torch.testing.assert_close(shifted.log_ratio(events.x, events.theta), expected)
    edge = torch.tensor([[10.0, 0.0]])
    assert torch.isfinite(shifted.log_ratio(events.x[:1], edge)).all()


def test_truth_controls_refuse_toys_without_a_density(location: ExactToy) -> None:
    class Undrawn(Toy):
        spec = location.spec

        def rates(self, theta: Tensor) -> Tensor:
            return location.rates(theta)

    for name in ("oracle", "oracle_narrow", "oracle_shifted"):
        with pytest.raises(SkipCell, match="exact density"):
            build_estimator(name, location.spec, truth=Undrawn())
        with pytest.raises(InputError, match="expected the toy"):
            build_estimator(name, location.spec)


def test_best_gaussian_finds_a_gaussian_location_model(location: ExactToy) -> None:
    n = 20_000
    events = draw(location, n, 1)
    gaussian = build_estimator("best_gaussian", location.spec)
    gaussian.prepare(events)
    parameters = dict(gaussian.named_buffers())
    # Least squares: standard error of a slope is 1 / (sqrt(n) prior sigma), of the width 1 / sqrt(2 n).
    assert abs(parameters["slope"][0, 0] - 1) < 4 / math.sqrt(n) / 0.5
    assert abs(parameters["slope"][0, 1] - 0.3) < 4 / math.sqrt(n)
    assert abs(parameters["offset"][0]) < 4 / math.sqrt(n)
    assert abs(parameters["factor"][0, 0] - 1) < 4 / math.sqrt(2 * n)


def test_best_gaussian_uses_weights(location: ExactToy) -> None:
    events = draw(location, 20_000, 1)
    # p(x) N(x - 1, 1) is a Gaussian of half the variance, centred between: weights move and narrow it.
    weight = torch.exp(-0.5 * (events.x[:, 0] - 1 - events.theta[:, 0] - 0.3 * events.theta[:, 1]) ** 2).float()
    gaussian = build_estimator("best_gaussian", location.spec)
    gaussian.prepare(events.with_weight(weight))
    effective = weight.sum() ** 2 / (weight**2).sum()
    parameters = dict(gaussian.named_buffers())
    assert abs(parameters["offset"][0] - 0.5) < 4 * math.sqrt(0.5 / effective)
    assert abs(parameters["factor"][0, 0] - math.sqrt(0.5)) < 4 * math.sqrt(0.5 / effective)


def test_best_gaussian_survives_a_constant_feature(location: ExactToy) -> None:
    events = draw(location, 500, 2)
    constant = Events(torch.zeros_like(events.x), events.theta, events.weight)
    gaussian = build_estimator("best_gaussian", location.spec)
    gaussian.prepare(constant)
    assert torch.isfinite(gaussian.log_ratio(events.x, events.theta)).all()


def histogram(toy: SimulatedToy, n: int, **params: int) -> TemplateHistogram:
    estimator = build_estimator("template_histogram", toy.spec, **params)
    estimator.prepare(draw(toy, n, 3, "templates"))
    assert isinstance(estimator, TemplateHistogram)
    return estimator.double()


def exact_cells(estimator: TemplateHistogram, location: ExactToy, theta: Tensor) -> Tensor:
    """Exact probability of each cell, in the order of the cells."""
    edges = torch.sort(estimator.cells.cut).values
    centre = theta[:, 0] + 0.3 * theta[:, 1]
    below = torch.special.ndtr(edges - centre[:, None])
    one, zero = torch.ones_like(below[:, :1]), torch.zeros_like(below[:, :1])
    return torch.cat([below, one], 1) - torch.cat([zero, below], 1)


def test_template_histogram_finds_the_exact_cell_probabilities(location: ExactToy) -> None:
    n, bins = 60_000, 12
    estimator = histogram(location, n, bins=bins)
    theta = torch.tensor([[0.0, 0.0], [0.4, 0.0], [-0.3, 1.0], [0.2, -1.0]], dtype=torch.float64)
    exact = exact_cells(estimator, location, theta)
    learned = estimator._log_cell_probability(theta).exp()
    # Each of three templates has n / 3 events, of which an effective third informs one point in mu.
    error = (exact * (1 - exact) / (n / 9)).sqrt()
    pull = (learned - exact) / error
    assert pull.abs().max() < 4
    torch.testing.assert_close(learned.sum(1), torch.ones(4, dtype=torch.float64))


def test_template_histogram_interpolates_nuisances_between_and_beyond_anchors(location: ExactToy) -> None:
    estimator = histogram(location, 60_000, bins=12)
    for nuisance, tolerance in ((0.5, 0.1), (1.5, 0.2)):
        theta = torch.tensor([[0.0, nuisance]], dtype=torch.float64)
        exact, learned = exact_cells(estimator, location, theta), estimator._log_cell_probability(theta).exp()
        kl = (exact * (exact / learned).log()).sum()
        blind = (exact * (exact / exact_cells(estimator, location, torch.zeros(1, 2))).log()).sum()
        assert kl < tolerance * blind


def test_template_histogram_names_the_template_that_is_missing(location: ExactToy) -> None:
    estimator = build_estimator("template_histogram", location.spec)
    with pytest.raises(SkipCell, match="nominal nuisances"):
        estimator.prepare(draw(location, 100, 4))
    events = draw(location, 300, 5, "templates")
    with pytest.raises(SkipCell, match="nu = 1"):
        estimator.prepare(events[events.theta[:, 1] != 1])


def test_template_histogram_on_two_features_beats_a_blind_guess() -> None:
    from touchneedle.toys.base import build_toy

    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    estimator = histogram(toy, 20_000)
    test = draw(toy, 5_000, 6, "templates")
    exact, learned = toy.log_ratio(test.x, test.theta), estimator.log_ratio(test.x, test.theta)
    assert (learned - exact).square().mean() < exact.square().mean()
