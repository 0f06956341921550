"""The conformance kit on specs, finite pools and signed densities."""

from dataclasses import dataclass, replace

import pytest
import torch

from touchneedle.benchmark.check_toy import CheckFailed, check_toy, toy_checks
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import (
    Events,
    Feature,
    FiniteToy,
    GaussianConstraint,
    Normal,
    Parameter,
    ParameterSpace,
    SignedToy,
    ToySpec,
    Uniform,
    build_toy,
)
from touchneedle.toys.gaussian_shift import GaussianShift, GaussianShiftConfig


def fails(name, toy, words=None):
    """The named check says what is wrong, in one line."""
    with pytest.raises(CheckFailed, match=words) as caught:
        toy_checks()[name](toy)
    assert "\n" not in str(caught.value)


FX = (Feature("x"),)
GOOD = Parameter("mu", "interest", 0.0, (-2.0, 2.0), Uniform(-1.0, 1.0))
NUISANCE = Parameter("nu", "nuisance", 0.0, (-7.0, 7.0), Normal(0.0, 1.0), GaussianConstraint(1.0))


@pytest.mark.parametrize(
    ("parameters", "features", "words"),
    [
        ((GOOD, replace(NUISANCE, name="mu")), ("x",), "unique parameter"),
        ((NUISANCE,), ("x",), "interest"),
        ((replace(GOOD, nominal=3.0),), ("x",), "nominal"),
        ((GOOD, replace(NUISANCE, anchors=(-8.0, 8.0))), ("x",), "anchor"),
        ((GOOD, replace(NUISANCE, bounds=(-5.0, 5.0))), ("x",), "prior draws"),
        ((replace(GOOD, prior=Uniform(-3.0, 1.0)),), ("x",), "prior draws"),
        ((GOOD,), ("x", "x"), "unique feature"),
        ((GOOD,), (), "unique feature"),
    ],
)
def test_inconsistent_spec(parameters, features, words):
    toy = build_toy("gaussian_shift")
    toy.spec = ToySpec("broken", "1", ParameterSpace(parameters), tuple(Feature(name) for name in features), ("all",))
    fails("spec", toy, words)


@dataclass
class Empty:
    pass


class Pool(FiniteToy):
    """Two processes of 500 events; the sum of weights is the yield."""

    Config = Empty

    def __init__(self):
        self.spec = ToySpec(
            "pool", "1", ParameterSpace((replace(GOOD, nominal=1.0, bounds=(0.0, 2.0), prior=Uniform(0, 2)),)), FX, ("s", "b")
        )
        x = torch.arange(1_000.0).unsqueeze(-1)
        theta = torch.ones(1_000, 1, dtype=torch.float64)
        events = Events(x, theta, torch.full((1_000,), 0.2, dtype=torch.float64), torch.arange(1_000) // 2 % 2)
        self._pools = {"train": events[::2], "test": events[1::2]}

    def rates(self, theta):
        return torch.cat([50.0 * theta, torch.full_like(theta, 50.0)], -1)

    def pool(self, split):
        return self._pools[split]

    def reweight(self, events, theta):
        theta = theta.expand(len(events), -1)
        self.spec.parameters.check(theta)
        if theta.shape[1] != 1:
            raise InputError("theta: expected one column")
        return events.weight * torch.where(events.label == 0, theta[:, 0], 1.0)


def test_a_finite_toy_conforms():
    results = check_toy(Pool())
    assert {result.name for result in results} == {"spec", "rates", "global_state", "bounds", "shapes", "splits", "reweight", "move"}
    assert [(result.name, result.message) for result in results if not result.passed] == []


def test_broken_finite_toys():
    overlapping, doubled, flat, unchecked, drifting, by_order = (Pool() for _ in range(6))
    overlapping._pools["test"] = overlapping._pools["train"][:10]
    fails("splits", overlapping, "10 distinct events")
    doubled._pools["train"] = doubled._pools["train"].with_weight(2 * doubled._pools["train"].weight)
    fails("reweight", doubled, "sum to 200")
    flat.reweight = lambda events, theta: events.weight
    fails("reweight", flat, "expected_events")
    unchecked.reweight = lambda events, theta: events.weight * theta.expand(len(events), -1)[:, 0]
    fails("bounds", unchecked, "mu")
    drifting._move = lambda events, theta: events.x + 1.0
    fails("move", drifting, "train pool")
    by_order._move = lambda events, theta: events.x + (theta - 1).float() * torch.arange(len(events))[:, None]
    fails("move", by_order, "another order")


class Signed(SignedToy):
    """1.5 N(0, 1) - 0.5 N(0, 0.5): negative at the centre of its second half."""

    Config = Empty
    scale = 1.0

    def __init__(self):
        self.spec = ToySpec("signed", "1", ParameterSpace((GOOD,)), FX, ("plus", "minus"))

    def rates(self, theta):
        return torch.tensor([150.0, -50.0]).expand(len(theta), 2).double()

    def _sample(self, theta, generator):
        return Events(torch.randn(len(theta), 1, generator=generator), theta, torch.ones(len(theta)))

    def _density(self, x, theta):
        normal = torch.distributions.Normal
        return self.scale * (1.5 * normal(0.0, 1.0).log_prob(x).exp() - 0.5 * normal(0.0, 0.5).log_prob(x).exp())[:, 0]


def test_signed_toys_are_integrated():
    toy = Signed()
    assert [(result.name, result.message) for result in check_toy(toy) if not result.passed] == []
    toy.scale = 1.01
    fails("normalised", toy, "1.01")


def test_many_or_discrete_features_leave_the_integral_out():
    toy = build_toy("gaussian_shift")
    toy.spec = replace(toy.spec, features=(Feature("x", kind="discrete"),))
    assert "normalised" not in {result.name for result in check_toy(toy)}


def test_nominal_on_a_bound_and_tiny_units_are_fine():
    """A rate at its lower bound in units of 1e-6: steps follow the prior's width and stay inside."""

    class Scaled(GaussianShift):
        def _log_prob(self, x, theta):
            return GaussianShift._log_prob(self, x, theta * torch.tensor([1e6, 1.0, 1.0]))

        def _sample(self, theta, generator):
            return replace(GaussianShift._sample(self, theta * torch.tensor([1e6, 1.0, 1.0]), generator), theta=theta)

    toy = Scaled(GaussianShiftConfig())
    shift = Parameter("shift", "interest", 0.0, (0.0, 2e-6), Uniform(0.0, 1e-6))
    toy.spec = replace(toy.spec, parameters=ParameterSpace((shift, *toy.spec.parameters.parameters[1:])))
    assert [(result.name, result.message) for result in check_toy(toy) if not result.passed] == []
