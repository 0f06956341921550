"""The conformance kit: every exact toy passes it, and every kind of broken toy fails the check meant for it."""

import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from touchneedle.benchmark.check_density import MAX_DIM
from touchneedle.benchmark.check_toy import CheckFailed, check_toy, toy_checks
from touchneedle.benchmark.checks import CheckResult, run_checks
from touchneedle.conf import registry
from touchneedle.toys.base import (
    ExactToy,
    build_toy,
)
from touchneedle.toys.fnf_two_class import FnfTwoClass, FnfTwoClassConfig
from touchneedle.toys.gaussian_shift import GaussianShift, GaussianShiftConfig
from touchneedle.toys.mass_bump import MassBump, MassBumpConfig
from touchneedle.toys.two_moons import TwoMoons, TwoMoonsConfig


def exact_names():
    return [name for name in registry.TOY_TABLE if issubclass(registry.toys.load(name), ExactToy)]


@pytest.mark.parametrize("name", exact_names())
def test_exact_toys_conform(name):
    start = time.process_time()
    toy = build_toy(name)
    results = check_toy(toy)
    assert [(result.name, result.message) for result in results if not result.passed] == []
    integrals = {"normalised", "samples_follow_density"} if toy.spec.x_dim <= MAX_DIM else set()
    assert {"score", "bounds", "global_state", *integrals} <= {result.name for result in results}
    assert time.process_time() - start < 3


def test_the_distorted_toy_conforms():
    assert [result.message for result in check_toy(build_toy("fnf_two_class", distortion=0.2)) if not result.passed] == []


def test_checks_that_do_not_apply_are_left_out():
    names = {name: {result.name for result in check_toy(build_toy(name))} for name in ("gaussian_shift", "two_moons")}
    assert "splits" not in names["gaussian_shift"]
    assert names["gaussian_shift"] - names["two_moons"] == {"ratio_closure", "score_mean"}
    toy_checks()["splits"](build_toy("gaussian_shift"))


def fails(name, toy, words=None):
    """The named check says what is wrong, in one line."""
    with pytest.raises(CheckFailed, match=words) as caught:
        toy_checks()[name](toy)
    assert "\n" not in str(caught.value)


def gaussian(**methods):
    """A gaussian_shift with other methods."""
    return type("Broken", (GaussianShift,), methods)(GaussianShiftConfig())


def fnf(**methods):
    return type("Broken", (FnfTwoClass,), methods)(FnfTwoClassConfig())


def moons(**methods):
    return type("Broken", (TwoMoons,), methods)(TwoMoonsConfig())


def bump(**methods):
    return type("Broken", (MassBump,), methods)(MassBumpConfig())


@pytest.mark.parametrize(("build", "factor"), [(gaussian, 1.01), (bump, 0.99), (moons, 1.05), (fnf, 1.1), (fnf, 0.9)])
def test_density_off_by_a_factor(build, factor):
    parent = type(build()).__bases__[0]

    def _log_prob(self, x, theta):
        return parent._log_prob(self, x, theta) + math.log(factor)

    fails("normalised", build(_log_prob=_log_prob), "integrates to")


def test_density_of_theta_not_normalised_shows_in_ratios_and_scores():
    def _log_prob(self, x, theta):
        return FnfTwoClass._log_prob(self, x, theta) + 0.3 * theta[:, 1]

    toy = fnf(_log_prob=_log_prob)
    fails("ratio_closure", toy)
    fails("score_mean", toy, "shift")


def moved(change):
    """A sampler whose x is changed afterwards."""

    def build(parent):
        def _sample(self, theta, generator):
            events = parent._sample(self, theta, generator)
            return replace(events, x=change(events.x))

        return _sample

    return build


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (gaussian, lambda x: 1.1 * x),
        (gaussian, lambda x: x + 0.1),
        (moons, lambda x: x + 0.01),
        (fnf, lambda x: x + torch.tensor([0.1, 0.0, 0.0, 0.0])),
        (fnf, lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 3], x[:, 2]], -1)),
        (fnf, lambda x: torch.cat([x[:, :3], x[:, 3:].roll(1, 0)], -1)),
    ],
    ids=["wide", "shifted", "moons", "fnf_shifted", "fnf_swapped", "fnf_uncorrelated"],
)
def test_wrong_sampler(build, change):
    parent = type(build()).__bases__[0]
    fails("samples_follow_density", build(_sample=moved(change)(parent)), "samples")


def test_sampler_that_ignores_a_nuisance():
    def _sample(self, theta, generator):
        frozen = theta * torch.tensor([1.0, 1.0, 0.0])
        return replace(GaussianShift._sample(self, frozen, generator), theta=theta)

    toy = gaussian(_sample=_sample)
    fails("samples_follow_density", toy)
    fails("score_mean", toy, "log_scale")


def test_sampler_with_other_random_states():
    def _sample(self, theta, generator):
        events = GaussianShift._sample(self, theta, generator)
        return replace(events, x=events.x + torch.randn(events.x.shape))

    toy = gaussian(_sample=_sample)
    fails("sample", toy, "same seed")
    fails("global_state", toy, "torch")


def test_sampler_that_ignores_the_generator():
    def _sample(self, theta, generator):
        return GaussianShift._sample(self, theta, torch.Generator().manual_seed(3))

    fails("sample", gaussian(_sample=_sample), "different seeds")


@pytest.mark.parametrize(
    ("touch", "words"),
    [
        (lambda: torch.manual_seed(0), "torch"),
        (lambda: np.random.seed(0), "numpy"),  # noqa: NPY002
        (lambda: random.seed(0), "Python"),
        (lambda: torch.set_default_dtype(torch.float64), "default dtype"),
    ],
)
def test_global_state_is_watched(touch, words):
    def _sample(self, theta, generator):
        touch()
        return GaussianShift._sample(self, theta, generator)

    before = torch.get_default_dtype(), torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        fails("global_state", gaussian(_sample=_sample), words)
    finally:
        torch.set_default_dtype(before[0])
        torch.set_rng_state(before[1])
        np.random.set_state(before[2])  # noqa: NPY002
        random.setstate(before[3])


def test_bounds_not_checked():
    fails("bounds", gaussian(sample=lambda self, theta, generator: GaussianShift._sample(self, theta, generator)), "shift")
    fails("bounds", gaussian(_checked=lambda self, x, theta: (x.double(), theta.double().expand(len(x), -1))), "shift")


def test_shapes_not_checked():
    def log_prob(self, x, theta):
        return self._log_prob(x.double().reshape(-1, 1)[: len(theta)], theta.double()[:, :3])

    fails("shapes", gaussian(log_prob=log_prob), "it was accepted")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": lambda e: e.x.double()}, "float32"),
        ({"x": lambda e: e.x.repeat(1, 2)}, "shape"),
        ({"x": lambda e: e.x * math.nan}, "finite"),
        ({"theta": lambda e: e.theta.float()}, "float64"),
        ({"theta": lambda e: e.theta + 0.1}, "row by row"),
        ({"weight": lambda e: e.weight.unsqueeze(-1)}, "weight"),
        ({"label": lambda e: torch.full((len(e),), 1)}, "label"),
    ],
)
def test_malformed_events(change, words):
    def _sample(self, theta, generator):
        events = GaussianShift._sample(self, theta, generator)
        return replace(events, **{name: make(events) for name, make in change.items()})

    fails("sample", gaussian(_sample=_sample), words)


def test_wrong_score():
    fails("score", gaussian(score=lambda self, x, theta: 1.001 * GaussianShift.score(self, x, theta)), "shift")

    def _log_prob(self, x, theta):
        return GaussianShift._log_prob(self, x, torch.cat([theta[:, :2], theta[:, 2:].detach()], -1))

    fails("score", gaussian(_log_prob=_log_prob), "log_scale")


def test_density_that_depends_on_its_batch():
    fails("batch_invariance", gaussian(_log_prob=lambda self, x, theta: GaussianShift._log_prob(self, x - x.mean(0), theta)))
    fails("batch_invariance", gaussian(_log_prob=lambda self, x, theta: GaussianShift._log_prob(self, x, theta).float()), "float64")


def test_density_that_is_nan_in_the_tails():
    def _log_prob(self, x, theta):
        value = GaussianShift._log_prob(self, x, theta)
        return value + (value.exp() / value.exp() - 1)

    fails("far_events", gaussian(_log_prob=_log_prob), "log space")


def test_labels_that_do_not_follow_the_rates():
    fails("labels", bump(rates=lambda self, theta: MassBump.rates(self, theta).flip(-1)), "fractions")


def test_joint_truth_that_is_not_the_events_own():
    def _sample(self, theta, generator):
        events = MassBump._sample(self, theta, generator)
        return replace(events, joint_log_ratio=0.5 * events.joint_log_ratio)

    fails("joint_truth", bump(_sample=_sample), "joint_log_ratio")

    def _sample_score(self, theta, generator):
        events = MassBump._sample(self, theta, generator)
        return replace(events, joint_score=events.joint_score + 0.1)

    fails("joint_truth", bump(_sample=_sample_score), "joint_score of fraction")


def test_process_densities_that_do_not_add_up():
    fails("process_densities", bump(_log_prob_process=lambda self, x, theta: MassBump._log_prob_process(self, x, theta).flip(-1)))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (lambda self, theta: torch.full((len(theta), 2), 1.0), "finite numbers"),
        (lambda self, theta: torch.full((len(theta), 1), math.nan), "finite numbers"),
        (lambda self, theta: torch.full((len(theta), 1), float(len(theta))), "single rows"),
        (lambda self, theta: torch.full((len(theta), 1), -1.0), "positive yield"),
    ],
)
def test_wrong_rates(rates, words):
    fails("rates", gaussian(rates=rates), words)


def test_expected_events_that_are_not_the_sum_of_rates():
    fails("rates", gaussian(expected_events=lambda self, theta: torch.full((len(theta),), 5.0, dtype=torch.float64)), "sum of rates")


def test_run_checks_reports_failures_and_exceptions():
    def good(subject):
        assert subject == 3

    def bad(subject):
        raise CheckFailed("expected 4")

    def broken(subject):
        raise KeyError("lost")

    results = run_checks({"good": good, "bad": bad, "broken": broken}, 3)
    assert [(r.name, r.passed, r.message) for r in results] == [
        ("good", True, ""),
        ("bad", False, "expected 4"),
        ("broken", False, "KeyError: 'lost'"),
    ]
    assert all(isinstance(r, CheckResult) and r.seconds >= 0 for r in results)
