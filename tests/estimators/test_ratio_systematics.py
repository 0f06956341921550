"""Ratios parametric in the nuisances, and ratios morphed between templates: identities, optima, bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from touchneedle.benchmark.data import design_theta
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.ratio_morphed import RatioMorphed
from touchneedle.estimators.ratio_parametric import RatioParametric
from touchneedle.estimators.templates import Templates
from touchneedle.toys.base import Events, ExactToy, build_toy

# Templates lie within one sigma; what these methods say beyond them is what many of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::touchneedle.estimators.trained_range.OutsideTrainedRange")


def draw(toy: ExactToy, n: int, seed: int, design: str) -> Events:
    generator = torch.Generator().manual_seed(seed)
    theta = design_theta(toy.spec.parameters, n, design, generator)
    return toy.sample(theta, generator=generator)


def built(name: str, toy: ExactToy, design: str = "templates", **params: object) -> Estimator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec, **params)
    estimator.prepare(draw(toy, 2_000, 1, design))
    return estimator.double()


def shaken(estimator: Estimator) -> Estimator:
    """Weights at random, so that no output is zero because its layer starts there."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in estimator.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return estimator


@pytest.mark.parametrize("name", ["ratio_morphed", "ratio_parametric"])
def test_nominal_nuisances_leave_the_ratio_of_the_interest_alone(name: str) -> None:
    """Other nuisance outputs of the network change nothing at nominal nuisances, and do change the rest."""
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    estimator = shaken(built(name, toy))
    events = draw(toy, 50, 5, "prior")
    nominal = events.theta.clone()
    nominal[:, list(toy.spec.parameters.nuisance)] = 0
    before = estimator.log_ratio(events.x, nominal), estimator.log_ratio(events.x, events.theta)
    assert isinstance(estimator.network, nn.Sequential)
    with torch.no_grad():
        estimator.network[-1].bias[1:] += 1.0  # type: ignore[operator]
    torch.testing.assert_close(estimator.log_ratio(events.x, nominal), before[0], rtol=1e-12, atol=1e-12)
    assert ((estimator.log_ratio(events.x, events.theta) - before[1]).abs() > 1e-3).any()


def test_parametric_ratio_is_the_polynomial_of_its_coefficients() -> None:
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    estimator = shaken(built("ratio_parametric", toy, degree=3))
    assert isinstance(estimator, RatioParametric)
    x = draw(toy, 5, 6, "prior").x.double()
    # Third differences along any line of nuisances are constant for a cubic.
    direction = torch.tensor([0.0, 0.7, -0.4], dtype=torch.float64)
    values = torch.stack([estimator._log_evidence_ratio(x, (step * direction).expand(5, -1)) for step in range(6)])
    third = values.diff(n=3, dim=0)
    torch.testing.assert_close(third, third[:1].expand_as(third), rtol=1e-8, atol=1e-9)
    assert (third.abs() > 1e-6).all()


def test_templates_leave_cross_terms_at_zero_and_joint_templates_do_not() -> None:
    """With single nuisances off nominal the double difference in two nuisances stays exactly zero."""
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    corners = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    for design in ("templates", "templates_joint"):
        estimator = built("ratio_parametric", toy, design)
        events = draw(toy, 2_000, 7, design)
        optimiser = torch.optim.Adam(estimator.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(8)
        for _ in range(5):
            optimiser.zero_grad()
            estimator.loss(events, generator).mean().backward()
            optimiser.step()
        grid = estimator.log_ratio_grid(events.x[:20], corners).detach()
        cross = grid[:, 0] - grid[:, 1] - grid[:, 2] + grid[:, 3]
        assert (cross.abs() < 1e-12).all() == (design == "templates")


class Exact(nn.Module):
    """The exact outputs of `RatioMorphed` on the location toy: inputs are standardised (x, mu)."""

    def __init__(self, estimator: RatioMorphed) -> None:
        super().__init__()
        self.x, self.theta = estimator.standardise_x, estimator.standardise_theta
        self.change = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs[:, 0] * self.x.std + self.x.mean
        mu = inputs[:, 1] * self.theta.std[0] + self.theta.mean[0]
        at_nominal = -0.5 * (x - mu) ** 2 + 0.5 * x**2 / 1.25 + 0.5 * math.log(1.25)
        down, up = (-0.5 * (x - mu - side * 0.3) ** 2 + 0.5 * (x - mu) ** 2 for side in (-1, 1))
        return torch.stack([at_nominal, 10 * (down / 10).atanh(), 10 * (up / 10).atanh()], 1) + self.change


def test_the_exact_classifiers_are_the_optimum_of_the_morphed_loss(location: ExactToy) -> None:
    """Gradients along a constant added to each output vanish at the exact ratios, and do not beside them."""
    estimator = built("ratio_morphed", location)
    assert isinstance(estimator, RatioMorphed)
    events = draw(location, 100 * 1024, 9, "templates")
    uneven = 0.5 + torch.rand(len(events), generator=torch.Generator().manual_seed(10))
    # Templates of unequal size: nominal events count three times.
    events = events.with_weight(uneven * torch.where(events.theta[:, 1] == 0, 3.0, 1.0))
    estimator.prepare(events)
    exact = Exact(estimator)
    estimator.network = exact
    for change, optimal in ((0.0, True), (0.2, False)):
        with torch.no_grad():
            exact.change.fill_(change)
        generator = torch.Generator().manual_seed(11)
        batches = events.batches(1024)
        slopes = torch.stack([torch.autograd.grad(estimator.loss(batch, generator).mean(), exact.change)[0] for batch in batches])
        pull = slopes.mean(0) / (slopes.std(0) / len(slopes) ** 0.5)
        assert (pull.abs() < 4).all() if optimal else (pull > 5).all()


def test_morphed_ratio_at_anchors_is_the_product_of_its_classifiers(location: ExactToy) -> None:
    estimator = built("ratio_morphed", location)
    assert isinstance(estimator, RatioMorphed)
    estimator.network = Exact(estimator)
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    for mu, nu in itertools.product((-0.4, 0.6), (-2.0, -1.0, 0.0, 1.0)):
        point = torch.tensor([mu, nu], dtype=torch.float64)
        side = math.copysign(1.0, nu)
        anchor = torch.tensor([mu, side], dtype=torch.float64)
        interest = torch.tensor([mu, 0.0], dtype=torch.float64)
        # log w = |alpha| log w(anchor) at the anchors and beyond.
        expected = location.log_ratio(x, interest) + abs(nu) * (location.log_ratio(x, anchor) - location.log_ratio(x, interest))
        torch.testing.assert_close(estimator.log_ratio(x, point), expected, rtol=1e-6, atol=1e-6)


def test_morphed_reference_is_nominal_and_its_ratio_is_normalised_there(location: ExactToy) -> None:
    estimator = built("ratio_morphed", location)
    assert isinstance(estimator, RatioMorphed)
    events = draw(location, 60_000, 12, "templates")
    estimator.prepare(events)
    assert len(estimator.reference_x) == int((events.theta[:, 1] == 0).sum())
    estimator.network = Exact(estimator)
    theta = torch.tensor([[0.3, 1.0], [-0.2, -1.0]], dtype=torch.float64)
    log_r = estimator._log_evidence_ratio_grid(estimator.reference_x, torch.cat([torch.zeros(1, 2), theta]))
    error = (log_r.exp()[:, 1:] - log_r.exp()[:, :1]).std(0) / len(log_r) ** 0.5
    assert (estimator.log_normalisation(theta).abs() < 4 * error).all()
    assert (error < 0.02).all()


def test_templates_tell_events_apart() -> None:
    toy = build_toy("fnf_two_class")
    assert isinstance(toy, ExactToy)
    templates = Templates(toy.spec.parameters, "ratio_morphed")
    assert len(templates) == 5
    theta = torch.tensor([[0.2, 0, 0], [0.2, -1, 0], [0.2, 1, 0], [0.3, 0, -1], [0.3, 0, 1], [0.3, 1, 1], [0.3, 0.5, 0]])
    members = templates.members(theta)
    assert torch.equal(members[:5], torch.eye(5, dtype=torch.bool))
    assert not members[5:].any()
    torch.testing.assert_close(templates.alpha(theta), theta[:, 1:])


def test_a_missing_template_and_a_negative_one_are_named(location: ExactToy) -> None:
    estimator = build_estimator("ratio_morphed", location.spec)
    with pytest.raises(SkipCell, match="ratio_morphed needs events of the template 'nominal nuisances'"):
        estimator.prepare(draw(location, 100, 13, "prior"))
    events = draw(location, 100, 13, "templates")
    with pytest.raises(SkipCell, match="nu = 1"):
        estimator.prepare(events[events.theta[:, 1] < 1])
    with pytest.raises(InputError, match="positive sum of weights"):
        estimator.prepare(events.with_weight(torch.where(events.theta[:, 1] == 1, -0.1, 1.0)))


@pytest.mark.parametrize("name", ["ratio_morphed", "ratio_parametric"])
def test_without_nuisances_only_the_interest_is_left(name: str, location: ExactToy) -> None:
    spec = build_toy("two_moons").spec
    estimator = build_estimator(name, spec)
    generator = torch.Generator().manual_seed(14)
    theta = spec.parameters.sample_prior(50, generator)
    events = Events(torch.randn(50, spec.x_dim, generator=generator), theta, torch.ones(50))
    estimator.prepare(events)
    assert torch.isfinite(estimator.loss(events, generator)).all()
    assert torch.isfinite(estimator.log_ratio(events.x, theta)).all()
