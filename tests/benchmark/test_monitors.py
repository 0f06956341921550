"""Monitors of a search: exact ratios pass, planted defects are measured by as much as they were planted, test events stay unseen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from touchneedle.benchmark.config import BudgetConfig, ComponentConfig, ExperimentConfig, TuningConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.monitors import MIN_EVENTS, check_monitors, monitor_rows, worst_z
from touchneedle.benchmark.records import Metric
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.toys.base import Events, Normal, Toy, build_toy

BOTH = ("closure", "calibration")


@pytest.fixture(scope="module")
def toy() -> Toy:
    return build_toy("gaussian_shift")


def validation(toy: Toy, design: str = "prior", n: int = 4_000) -> Events:
    return make_events(toy, n, design, seed=3)


def rows(estimator: Estimator, events: Events, names: tuple[str, ...] = BOTH) -> dict[str, Metric]:
    return {row.name: row for row in monitor_rows(names, estimator, events, seed=1)}


def control(name: str, toy: Toy) -> Estimator:
    return build_estimator(name, toy.spec, truth=toy).double()


@pytest.mark.parametrize("name", ["gaussian_shift", "mass_bump", "linear_gaussian"])
@pytest.mark.parametrize("design", ["prior", "templates", "pairs"])
def test_the_exact_ratio_passes(name: str, design: str) -> None:
    toy = build_toy(name)
    found = rows(control("oracle", toy), validation(toy, design))
    assert set(found) == {"mean_ratio", "ece", "calibration_slope"}
    assert all(row.value is not None for row in found.values())
    assert found["mean_ratio"].at["conclusive"]
    assert worst_z(list(found.values())) < 4


def test_a_ratio_that_is_too_confident_has_the_slope_of_its_factor(toy: Toy) -> None:
    """log_ratio / 0.81: the log odds are 0.81 times what it says."""
    slope = rows(control("oracle_narrow", toy), validation(toy), ("calibration",))["calibration_slope"]
    assert slope.value is not None
    assert slope.stderr is not None
    assert abs(slope.value - 0.81) < 4 * slope.stderr
    assert worst_z([slope]) == pytest.approx((1 - slope.value) / slope.stderr)
    assert worst_z([slope]) > 3


STRENGTH = 0.4


def drift(theta: Tensor) -> Tensor:
    return STRENGTH * theta[:, 1]


def test_a_drift_is_measured_as_planted(toy: Toy, plant: Any) -> None:
    """With r' = r e^{k theta}, E[r'_c / r'_a] is the mean of e^{k (theta_c - theta_a)} over the pairs of points."""

    class Drifts(plant.Planted):
        def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
            return super()._log_ratio(x, theta) + drift(theta)

    events = validation(toy)
    found = rows(plant.planted(Drifts, toy), events, ("closure",))["mean_ratio"]
    share = float(found.at["pulled"] or 0)
    # Both points come from the prior, N(0, w^2): E e^{k s (b - a)} = e^{(k s w)^2}.
    prior = toy.spec.parameters.parameters[1].prior
    assert isinstance(prior, Normal)
    assert found.value is not None
    assert found.stderr is not None
    assert abs(found.value - math.exp((STRENGTH * share * prior.std) ** 2)) < 4 * found.stderr
    assert worst_z([found]) > 3


def test_a_ratio_that_is_not_a_number_is_infinitely_wrong(toy: Toy, plant: Any) -> None:
    found = rows(plant.planted(plant.Breaks, toy), validation(toy))
    assert all(row.value is None and "not finite" in str(row.at["reason"]) for row in found.values())
    assert worst_z(list(found.values())) == math.inf


def test_a_ratio_that_knows_nothing_is_not_wrong(toy: Toy, plant: Any) -> None:
    """It closes and is calibrated; that it is useless, the loss says."""
    found = rows(plant.planted(plant.Constant, toy), validation(toy))
    assert found["mean_ratio"].value == 1
    assert found["calibration_slope"].value is None
    assert worst_z(list(found.values())) < 4


def test_an_event_that_is_impossible_elsewhere_is_no_fault(toy: Toy, plant: Any) -> None:
    class Forbids(plant.Planted):
        def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
            return torch.where(x[:, 0] < theta[:, 0] - 1.5, -math.inf, super()._log_ratio(x, theta))

    events = validation(toy)
    possible = events[events.x[:, 0] >= events.theta[:, 0] - 1.5]
    assert len(possible) < len(events)
    assert rows(plant.planted(Forbids, toy), events, ("calibration",))["ece"].value is None
    assert rows(plant.planted(Forbids, toy), possible, ("calibration",))["ece"].value is not None


def test_rows_follow_the_seed_and_judge_what_they_can(toy: Toy) -> None:
    oracle, events = control("oracle", toy), validation(toy)
    first, again = (monitor_rows(BOTH, oracle, events, seed=1) for _ in range(2))
    assert first == again
    assert first != monitor_rows(BOTH, oracle, events, seed=2)
    assert worst_z([]) == 0
    vague = first[0].model_copy(update={"at": {"z": 9.0, "conclusive": False}})
    better = first[1].model_copy(update={"at": {"z": -9.0}})
    assert (first[0].name, first[1].name) == ("mean_ratio", "ece")
    assert worst_z([vague, better]) == 0


def cell(folder: Path, estimator: str = "ratio_bce", n_train: int = 2_000, **changes: Any) -> ExperimentConfig:
    tuning = TuningConfig("test", 2, monitor=BOTH)
    return ExperimentConfig(
        ComponentConfig("gaussian_shift"),
        ComponentConfig(estimator),
        BudgetConfig("test", n_train),
        tuning=tuning,
        results=str(folder),
        **changes,
    )


@pytest.mark.parametrize(
    ("estimator", "n_train", "design", "message"),
    [
        ("ratio_bce", 1_000, "prior", f"expected at least {MIN_EVENTS} validation events; got 100"),
        ("score_sally", 2_000, "nominal", "design nominal has one"),
        ("ratio_signed_pare", 2_000, "prior", "ratio_signed_pare is signed"),
    ],
)
def test_what_cannot_be_monitored_is_one_line(tmp_path: Path, toy: Toy, estimator: str, n_train: int, design: str, message: str) -> None:
    config = cell(tmp_path, estimator, n_train, design=design)
    with pytest.raises(InputError, match=message) as caught:
        check_monitors(config, make_events(toy, n_train, design, seed=0))
    assert "\n" not in str(caught.value)


def test_events_of_negative_weight_cannot_be_calibrated(tmp_path: Path, toy: Toy) -> None:
    events = validation(toy)
    signed = events.with_weight(torch.where(torch.arange(len(events)) % 10 == 0, -1.0, 1.0))
    with pytest.raises(InputError, match="calibration expects events of positive weight"):
        check_monitors(cell(tmp_path), signed)
