"""Pre-training: a cell that starts from the weights of another run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from touchneedle.benchmark.config import (
    BudgetConfig,
    ComponentConfig,
    EnsembleConfig,
    EvaluationConfig,
    ExperimentConfig,
    OptimizerConfig,
    TrainerConfig,
)
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.fitted import fitted
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.run import run_experiment
from touchneedle.benchmark.train import train
from touchneedle.conf.errors import InputError
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

TRAINER = TrainerConfig(max_epochs=8, batch_size=128, progress=False, accelerator="cpu")
STILL = OptimizerConfig(learning_rate=1e-12, weight_decay=0.0)


def cell(results: Path, name: str = "ratio_bce", hidden: tuple[int, ...] = (8,), seed: int = 0) -> ExperimentConfig:
    return ExperimentConfig(
        toy=ComponentConfig("gaussian_shift"),
        estimator=ComponentConfig(name, {"hidden": list(hidden)} if name == "ratio_bce" else {}),
        budget=BudgetConfig("test", 2_000),
        evaluation=EvaluationConfig("tiny", n_experiments=5, n_points=1, n_test=200, n_sample=20, families=("density",)),
        trainer=TRAINER,
        seed=seed,
        results=str(results),
    )


def test_a_run_starts_where_another_ended(tmp_path: Path) -> None:
    first = run_experiment(cell(tmp_path))
    assert first is not None
    assert first.status == "ok", first.reason
    toy = build_toy("gaussian_shift")
    before, log = fitted(cell(tmp_path), toy, first.fit_id)
    # Other events, and steps too small to see: the loss is as good as after the first training, the answers are the same.
    config = replace(cell(tmp_path, seed=1), trainer=replace(TRAINER, max_epochs=1, start=first.run_id), optimizer=STILL)
    after, later = fitted(config, toy, identify(config)[0])
    probe = make_events(toy, 100, "prior", 9)
    torch.testing.assert_close(after.log_ratio(probe.x, probe.theta), before.log_ratio(probe.x, probe.theta))
    assert later.validation_loss[0] == pytest.approx(min(log.validation_loss), abs=0.1)
    assert log.validation_loss[0] > later.validation_loss[0]
    ensemble = replace(config, ensemble=EnsembleConfig(members=2))
    both, _ = fitted(ensemble, toy, identify(ensemble)[0])
    torch.testing.assert_close(both.log_ratio(probe.x, probe.theta), before.log_ratio(probe.x, probe.theta))


def test_a_start_is_part_of_the_identity_and_none_is_not(tmp_path: Path) -> None:
    plain = cell(tmp_path)
    started = replace(plain, trainer=replace(TRAINER, start="0123456789abcdef"))
    assert identify(plain)[0] != identify(started)[0]


def test_what_cannot_be_a_start_is_refused(tmp_path: Path) -> None:
    toy = build_toy("gaussian_shift")
    unknown = replace(cell(tmp_path), trainer=replace(TRAINER, start="nothing"))
    with pytest.raises(InputError, match=r"nothing\.json: No such file"):
        fitted(unknown, toy, "x")
    first = run_experiment(cell(tmp_path))
    assert first is not None
    other = replace(cell(tmp_path, name="posterior_flow"), trainer=replace(TRAINER, start=first.run_id))
    with pytest.raises(InputError, match="expected weights of posterior_flow; got ratio_bce"):
        fitted(other, toy, "x")
    wider = replace(cell(tmp_path, hidden=(9,)), trainer=replace(TRAINER, start=first.run_id))
    with pytest.raises(InputError, match="start: expected .* of shape .*9.*, as in RatioBce; got shape .*8"):
        fitted(wider, toy, "x")


def test_the_standardisation_comes_with_the_weights() -> None:
    toy = build_toy("gaussian_shift")
    old, new = (build_estimator("ratio_bce", toy.spec, hidden=(8,)) for _ in range(2))
    events = make_events(toy, 1_000, "prior", 0)
    train(old, events, TRAINER, OptimizerConfig(), 0)
    shifted = make_events(toy, 1_000, "prior", 1)
    shifted = replace(shifted, x=3 * shifted.x + 5)
    train(new, shifted, replace(TRAINER, max_epochs=1), STILL, 0, old.state_dict())
    assert torch.equal(new.standardise_x.mean, old.standardise_x.mean)
    assert torch.allclose(new.log_ratio(events.x, events.theta), old.log_ratio(events.x, events.theta), atol=1e-6)
