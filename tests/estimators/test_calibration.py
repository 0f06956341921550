"""Calibration of logits: a planted error is repaired, an exact logit is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.config import OptimizerConfig, TrainerConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.metrics.reliability import Labelled, labelled_scores
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import build_estimator
from touchneedle.estimators.calibration import CalibrationName, LogitCalibration
from touchneedle.estimators.ratio_network import next_partners
from touchneedle.toys.base import ExactToy, build_toy

NAMES: tuple[CalibrationName, ...] = ("isotonic", "histogram")


def pairs(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Exact logits of N(0.75, 1) against N(-0.75, 1), labels and uneven weights, n of each class."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat_interleave(n)
    x = 0.75 * (2 * label - 1) + torch.randn(2 * n, generator=generator, dtype=torch.float64)
    weight = 0.5 + torch.rand(2, n, generator=generator, dtype=torch.float64)
    return 1.5 * x, label, (weight / weight.mean(1, keepdim=True)).flatten()


def bent(logit: Tensor) -> Tensor:
    """A monotone error: too confident, and shifted."""
    return 0.5 + 2 * logit + 0.1 * logit**3


def learned(name: CalibrationName, *, planted: bool, n: int = 20_000) -> LogitCalibration:
    logit, label, weight = pairs(n, 0)
    calibration = LogitCalibration().double()
    calibration.learn(bent(logit) if planted else logit, label, weight, name)
    return calibration


def ece(logit: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Calibration error less its floor, and the error of that."""
    row = labelled_scores(Labelled(logit, label, weight), {"point": 1}).metrics[0]
    assert row.name == "ece"
    assert row.value is not None
    return torch.tensor([row.value, row.stderr or 0.0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("planted", [True, False])
def test_the_exact_logit_comes_back(name: CalibrationName, planted: bool) -> None:
    """In the bulk, within the noise of twenty thousand pairs, and with a calibration error that is no longer seen."""
    calibration = learned(name, planted=planted)
    logit, label, weight = pairs(50_000, 1)
    before = bent(logit) if planted else logit
    after = calibration(before)
    error = (after - logit)[logit.abs() < 3]
    assert error.square().mean().sqrt() < 0.12
    value, stderr = ece(after, label, weight)
    assert value < 5 * stderr + 0.01
    if planted:
        wrong, _ = ece(before, label, weight)
        assert wrong > 10 * value.abs()


@pytest.mark.parametrize("name", NAMES)
def test_the_map_is_monotone_continuous_and_goes_on_with_slope_one(name: CalibrationName) -> None:
    calibration = learned(name, planted=True)
    assert (calibration.knots.diff() > 0).all()
    assert (calibration.log_odds.diff() > 0).all()
    torch.testing.assert_close(calibration(calibration.knots), calibration.log_odds)
    edge = torch.stack([calibration.knots[0] - 5, calibration.knots[-1] + 7])
    expected = torch.stack([calibration.log_odds[0] - 5, calibration.log_odds[-1] + 7])
    torch.testing.assert_close(calibration(edge), expected)
    grid = torch.linspace(-20, 20, 4_001, dtype=torch.float64, requires_grad=True)
    value = calibration(grid)
    (slope,) = torch.autograd.grad(value.sum(), grid)
    assert (slope > 0).all()
    assert (value.diff() > 0).all()


def test_weights_are_numbers_of_pairs() -> None:
    logit, label, _ = pairs(500, 2)
    copies = torch.randint(1, 4, (1_000,), generator=torch.Generator().manual_seed(3))
    weighted, repeated = LogitCalibration().double(), LogitCalibration().double()
    weighted.learn(logit, label, copies.double(), "isotonic")
    repeated.learn(logit.repeat_interleave(copies), label.repeat_interleave(copies), torch.ones(int(copies.sum())).double(), "isotonic")
    torch.testing.assert_close(weighted.knots, repeated.knots)
    torch.testing.assert_close(weighted.log_odds, repeated.log_odds)


def test_too_few_pairs_leave_the_logit_alone() -> None:
    calibration = LogitCalibration()
    logit, label, weight = pairs(8, 4)
    calibration.learn(logit, label, weight, "histogram")
    assert torch.equal(calibration(logit), logit)


def test_negative_weights_cannot_be_calibrated(location: ExactToy) -> None:
    events = make_events(location, 100, "prior", 0)
    events = events.with_weight(torch.linspace(-0.1, 1, 100))
    build_estimator("ratio_bce", location.spec).prepare(events)
    with pytest.raises(SkipCell, match="calibration=none"):
        build_estimator("ratio_bce", location.spec, calibration="isotonic").prepare(events)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_from_few_events_is_calibrated_by_as_many(seed: int) -> None:
    """The calibration error over fresh pairs, of the same network with and without: it was not confident enough."""
    toy, n = build_toy("mass_bump"), 40_000
    assert isinstance(toy, ExactToy)
    generator = torch.Generator().manual_seed(9)
    test = toy.sample(toy.spec.parameters.sample_prior(n, generator), generator=generator)
    label = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat_interleave(n)
    trainer = TrainerConfig(accelerator="cpu", progress=False, threads=1, max_epochs=30, validation_fraction=0.5)
    errors = {}
    for name in ("none", *NAMES):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            estimator = build_estimator("ratio_bce", toy.spec, calibration=name)
        train(estimator, make_events(toy, 2_000, "prior", seed), trainer, OptimizerConfig(), seed)
        estimator.double()
        with torch.no_grad():
            logit = torch.cat([estimator.relative_log_prob(test.x, test.theta[of]) for of in (slice(None), next_partners(n, 1)[0])])
        errors[name] = ece(logit, label, torch.ones_like(label))
    print(seed, {name: [round(float(number), 4) for number in error] for name, error in errors.items()})
    for name in NAMES:
        gain, stderr = errors["none"][0] - errors[name][0], errors["none"][1].hypot(errors[name][1])
        assert gain > 5 * stderr
