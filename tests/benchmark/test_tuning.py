"""The tuning track: declared space, validation loss only, resumable, recorded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from touchneedle.benchmark.config import (
    BudgetConfig,
    ComponentConfig,
    EvaluationConfig,
    ExperimentConfig,
    OptimizerConfig,
    TrainerConfig,
    TuningConfig,
)
from touchneedle.benchmark.fitted import start_of
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import read_records
from touchneedle.benchmark.run import run_experiment
from touchneedle.benchmark.store import load_weights
from touchneedle.benchmark.sweep import compose_cell
from touchneedle.benchmark.tuning import draw_trials, with_options
from touchneedle.conf.errors import InputError
from touchneedle.reports.repeat import repeat_command

SPACE = {"optimizer.learning_rate": [1e-9, 2e-2], "estimator.hidden": [[4], [8]]}


def cell(results: Path, trials: int = 4, space: dict[str, list[object]] | None = None) -> ExperimentConfig:
    return ExperimentConfig(
        toy=ComponentConfig("gaussian_shift"),
        estimator=ComponentConfig("ratio_bce", {"hidden": [4]}),
        budget=BudgetConfig("test", 1_000),
        evaluation=EvaluationConfig("tiny", n_experiments=5, n_points=1, n_test=200, n_sample=20, families=("density",)),
        trainer=TrainerConfig(max_epochs=3, batch_size=128, progress=False, accelerator="cpu"),
        # The configuration as it stands learns nothing.
        optimizer=OptimizerConfig(learning_rate=1e-9),
        tuning=TuningConfig("test", trials, SPACE if space is None else space),
        results=str(results),
    )


def test_a_search_finds_the_lower_validation_loss_and_records_all_trials(tmp_path: Path) -> None:
    record = run_experiment(cell(tmp_path))
    assert record is not None
    assert record.status == "ok", record.reason
    assert record.track == "tuned"
    assert [len(trial.options) for trial in record.trials] == [0, 2, 2, 2]
    (chosen,) = [trial for trial in record.trials if trial.chosen]
    losses = [trial.validation_loss for trial in record.trials if trial.validation_loss is not None]
    assert chosen.validation_loss == min(losses)
    assert chosen.options["optimizer.learning_rate"] == 2e-2
    assert record.cost["trials"] == 4
    assert read_records(tmp_path)[0].trials == record.trials
    # Every trial is an ordinary fit, found again: a second search, of more trials, trains only the new ones.
    kept = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "fits").iterdir()}
    more = run_experiment(cell(tmp_path, trials=5))
    assert more is not None
    assert [trial.options for trial in more.trials[:4]] == [trial.options for trial in record.trials]
    assert {folder: folder.stat().st_mtime_ns for folder in kept} == kept
    assert "tuning=test tuning.trials=4" in repeat_command(record)


def test_the_search_is_part_of_the_identity_only_if_there_is_one(tmp_path: Path) -> None:
    none, some, more = (identify(cell(tmp_path, trials))[0] for trials in (0, 4, 5))
    assert len({none, some, more}) == 3
    assert identify(cell(tmp_path, 0, {}))[0] == none


def test_the_best_trial_scores_like_a_run_with_its_options(tmp_path: Path) -> None:
    tuned = run_experiment(cell(tmp_path))
    assert tuned is not None
    (chosen,) = [trial for trial in tuned.trials if trial.chosen]
    alone = run_experiment(with_options(cell(tmp_path), chosen.options))
    assert alone is not None
    assert (alone.track, alone.trials) == ("default", [])
    assert alone.metrics == tuned.metrics
    assert alone.fit_id == chosen.fit_id


def test_a_tuned_run_can_be_the_start_of_another(tmp_path: Path) -> None:
    tuned = run_experiment(cell(tmp_path))
    assert tuned is not None
    (chosen,) = [trial for trial in tuned.trials if trial.chosen]
    config = with_options(cell(tmp_path), {"trainer.start": tuned.run_id})
    tensors, own = start_of(config), load_weights(tmp_path, chosen.fit_id)
    assert tensors is not None
    assert own is not None
    assert all(torch.equal(tensors[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"seed": [1, 2]}, "expected keys like estimator.OPTION"),
        ({"estimator.hiden": [[4]]}, "unknown option 'hiden'"),
        ({"optimizer.rate": [1]}, "optimizer has no option 'rate'"),
    ],
)
def test_a_wrong_space_is_a_failed_record_with_one_line(tmp_path: Path, space: dict[str, list[object]], message: str) -> None:
    record = run_experiment(cell(tmp_path, 2, space))
    assert record is not None
    assert record.status == "failed"
    assert message in record.reason
    assert "\n" not in record.reason


def test_trials_follow_the_seed_and_the_preset_composes(tmp_path: Path) -> None:
    config = compose_cell(["tuning=small", "estimator=ratio_bce"])
    assert config.tuning.trials == 8
    assert draw_trials(config) == draw_trials(config)
    assert draw_trials(config) != draw_trials(replace(config, seed=1))
    for options in draw_trials(config):
        with_options(config, options)
    with pytest.raises(InputError, match="at least 1"):
        compose_cell(["tuning=small", "+tuning.space={optimizer.learning_rate:[]}"])
