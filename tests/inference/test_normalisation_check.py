"""The normalisation of ratios: exact ones close within their errors, planted drifts are found, and corrections remove them."""

import math
from dataclasses import dataclass

import pytest
import torch

from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.inference import Factor, Likelihood, Process, ProcessMixture, check_normalisation, fit, fit_normalisation
from touchneedle.inference.normalisation_check import normalisation_points
from touchneedle.toys.base import build_toy


@dataclass
class NoOptions:
    """No options."""


class Drifting(Estimator):
    """The exact ratio of a toy times exp(a nu_1 + b nu_1 nu_2): invisible at the nominal point, b at single anchors as well."""

    Config = NoOptions

    def __init__(self, toy, a, b):
        super().__init__(toy.spec, NoOptions())
        self.toy, self.a, self.b = toy, a, b
        self.double()

    def _log_ratio(self, x, theta):
        return self.toy.log_ratio(x, theta) + self.drift(theta)

    def drift(self, theta):
        return self.a * theta[:, 1] + self.b * theta[:, 1] * theta[:, 2]


@pytest.fixture
def toy():
    return build_toy("linear_gaussian", interest=1, nuisances=2)


def reference(toy, n=40_000, seed=0):
    return toy.sample(toy.spec.parameters.nominal.expand(n, -1), generator=torch.Generator().manual_seed(seed))


def test_an_exact_ratio_closes_within_its_errors(toy):
    """The errors are those of repeated samples; at nominal the ratio is 1 without any."""
    oracle = build_estimator("oracle", toy.spec, truth=toy)
    check = check_normalisation(oracle, reference(toy), 1_000)
    assert check.labels[0] == "nominal"
    assert check.mean[0] == 1
    assert check.stderr[0] == 0
    assert (check.pull.abs() < 4).all()
    repeated = torch.stack([check_normalisation(oracle, reference(toy, 2_000, seed), 1_000).mean for seed in range(100)])
    error = check_normalisation(oracle, reference(toy, 2_000, 1_000), 1_000).stderr
    assert torch.allclose(repeated.std(0)[1:], error[1:], rtol=0.4)


def test_a_joint_drift_shows_at_joint_points_alone(toy):
    check = check_normalisation(Drifting(toy, 0.0, 0.05), reference(toy), 10_000)
    joint = torch.tensor([label.startswith("nuisances") for label in check.labels])
    wanted = (0.05 * check.points[:, 1] * check.points[:, 2]).exp() - 1
    assert ((check.drift - wanted).abs() < 4 * check.stderr + 1e-12).all()
    assert (check.pull.abs()[~joint] < 4).all()
    assert (check.pull.abs()[joint] > 4).any()
    assert check.shift.abs().max() > 3
    assert "*" in check.summary().splitlines()[1]
    assert check.to_dict()["mean"][0] == 1.0


def test_weighted_references_count_by_their_weights(toy):
    """Half of the events twice is all weight: mean and error as by hand."""
    events = reference(toy, 1_000)
    weight = torch.where(torch.arange(1_000) % 2 == 0, 2.0, 0.0).double()
    theta = torch.tensor([[0.1, 1.0, -1.0]], dtype=torch.float64)
    estimator = Drifting(toy, 0.1, 0.0)
    check = check_normalisation(estimator, events.with_weight(weight), 100, theta)
    ratio = estimator.ratio(events.x[::2], theta[0])
    assert check.mean.item() == pytest.approx(ratio.mean().item(), rel=1e-12)
    assert check.stderr.item() == pytest.approx(ratio.std(correction=0).item() / math.sqrt(500), rel=1e-10)
    assert check.effective.item() == pytest.approx((ratio.sum() ** 2 / ratio.square().sum()).item(), rel=1e-10)
    assert check.labels == ("0.1, 1, -1",)


def test_points_are_nominal_anchors_and_joint_ones_inside_the_bounds():
    space = build_toy("counting_and_shape").spec.parameters
    labels, points = normalisation_points(space)
    assert len(set(labels)) == len(labels) == len(points) == 1 + 2 * 3 + 4 * 2
    space.check(points)
    assert points[labels.index("background = 1.1")].tolist() == [1.0, 1.1, 0.0]
    assert points[labels.index("nuisances alternating, 0.5 of the anchors")].tolist() == pytest.approx([1.0, 0.95, 0.5])
    assert len(normalisation_points(build_toy("near_manifold").spec.parameters)[0]) > 1


def test_a_global_correction_takes_the_bias_of_a_fit_away(toy):
    """A drift in a nuisance shifts a fit by n times its slope over the information; the polynomial removes it, in a mixture too."""
    events = reference(toy, 2_000, seed=5)
    exact = fit(Likelihood(build_estimator("oracle", toy.spec, truth=toy)), events)
    drifting = Drifting(toy, 0.02, 0.01)
    biased = fit(Likelihood(drifting), events)
    assert ((biased.theta - exact.theta).abs() > exact.sigma).any()
    normalisation = fit_normalisation(drifting, reference(toy, 20_000, seed=6))
    corrected = fit(Likelihood(drifting, normalisation=normalisation), events)
    assert corrected.valid
    # What is left is the error of the reference's mean, sqrt(2000 / 20000) sigma at most.
    assert ((corrected.theta - exact.theta).abs() < 4 * math.sqrt(0.1) * exact.sigma).all()
    mixture = ProcessMixture(toy.spec.parameters, [Process("all", (Factor(drifting, normalisation=normalisation),))], toy.rates)
    mixed = fit(Likelihood(mixture, mixture.rates), events)
    assert torch.allclose(mixed.theta, corrected.theta, atol=1e-4)


def test_bad_references_are_refused(toy):
    estimator = Drifting(toy, 0.0, 0.0)
    events = reference(toy, 10)
    with pytest.raises(InputError, match="expected a positive sum of weights; got 0 of 10 events"):
        check_normalisation(estimator, events.with_weight(torch.zeros(10)), 100)
    with pytest.raises(InputError, match="parameter nu_1: expected a value"):
        check_normalisation(estimator, events, 100, torch.tensor([[0.0, 99.0, 0.0]]))
    many = build_toy("many_nuisances", nuisances=50)
    with pytest.raises(InputError, match="at most 10 parameters .* got 51"):
        fit_normalisation(build_estimator("oracle", many.spec, truth=many), events)


def test_the_figure_shows_every_point(toy):
    pytest.importorskip("matplotlib")
    check = check_normalisation(Drifting(toy, 0.05, 0.0), reference(toy, 500), 100)
    (axes,) = check.draw().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(check.labels)
