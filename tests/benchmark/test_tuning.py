"""The tuning track: declared space, validation events only, resumable, recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from touchneedle.benchmark.compose import compose_cell
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
from touchneedle.benchmark.records import Metric, Trial, read_records
from touchneedle.benchmark.run import run_experiment
from touchneedle.benchmark.search_space import Range
from touchneedle.benchmark.store import load_weights
from touchneedle.benchmark.tuning import choose, draw_trials, tune, with_options
from touchneedle.conf.errors import InputError
from touchneedle.reports.repeat import repeat_command
from touchneedle.reports.show import show_run
from touchneedle.toys.base import Events, Toy, build_toy

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


def test_a_random_search_by_loss_alone_keeps_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[dict[str, object]] = []
    monkeypatch.setattr("touchneedle.benchmark.identity.hash_identity", lambda payload: hashed.append(payload) or "x")
    plain = cell(tmp_path)
    identify(plain)
    assert hashed[0]["tuning"] == [4, SPACE]
    others = [
        replace(plain.tuning, sampler="tpe"),
        replace(plain.tuning, monitor=("closure",)),
        replace(plain.tuning, monitor=("closure",), max_z=2.0),
        replace(plain.tuning, space={"optimizer.learning_rate": Range(1e-4, 1e-2)}),
    ]
    monkeypatch.undo()
    assert len({identify(replace(plain, tuning=tuning))[0] for tuning in [plain.tuning, *others]}) == 5


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
        # Only a later trial might draw these; they are found before the first is trained.
        ({"optimizer.learning_rate": [*[1e-3] * 5, "fast"]}, "option optimizer.learning_rate"),
        ({"trainer.batch_size": Range(16.0, 64.0)}, "option trainer.batch_size: Input should be a valid integer"),
        ({"estimator.hidden": Range(1, 3)}, "option hidden"),
    ],
)
def test_a_wrong_space_is_a_failed_record_with_one_line(tmp_path: Path, space: dict[str, list[object]], message: str) -> None:
    record = run_experiment(cell(tmp_path, 2, space))
    assert record is not None
    assert record.status == "failed"
    assert message in record.reason
    assert "\n" not in record.reason
    assert not (tmp_path / "fits").exists()


def test_trials_follow_the_seed_and_the_preset_composes(tmp_path: Path) -> None:
    config = compose_cell(["tuning=small", "estimator=ratio_bce"])
    assert config.tuning.trials == 8
    assert draw_trials(config) == draw_trials(config)
    assert draw_trials(config) != draw_trials(replace(config, seed=1))
    for options in draw_trials(config):
        with_options(config, options)
    with pytest.raises(InputError, match="at least 1"):
        compose_cell(["tuning=small", "+tuning.space={optimizer.learning_rate:[]}"])


def test_a_random_search_draws_from_ranges() -> None:
    space = {"optimizer.learning_rate": Range(1e-4, 1e-2, log=True), "trainer.batch_size": Range(16, 64)}
    config = compose_cell(["estimator=ratio_bce"])
    drawn = draw_trials(replace(config, tuning=TuningConfig("test", 40, space=space)))[1:]
    assert all(options[key] in span for options in drawn for key, span in space.items())
    assert len({options["optimizer.learning_rate"] for options in drawn}) == 39
    assert all(type(options["trainer.batch_size"]) is int for options in drawn)


def trial(loss: float | None, z: float = 0.0) -> Trial:
    row = Metric(family="closure", name="mean_ratio", at={"z": z}, value=1.0, stderr=0.1, direction="target")
    return Trial(options={}, fit_id="x", validation_loss=loss, seconds=1.0, chosen=False, monitors=[row])


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([trial(2.0), trial(1.0), trial(None)], 1),
        ([trial(1.0), trial(1.0)], 0),
        ([trial(3.0, z=2.9), trial(1.0, z=-3.1), trial(2.0, z=-2.0)], 2),
        ([trial(2.0, z=2.0), trial(None), trial(1.0, z=9.0)], 0),
        # None is feasible: the one that is least beyond.
        ([trial(1.0, z=9.0), trial(2.0, z=-4.0), trial(3.0, z=5.0)], 1),
    ],
)
def test_the_lowest_loss_wins_among_what_is_feasible(trials: list[Trial], best: int) -> None:
    assert choose(trials, max_z=3.0) == best


def test_no_finite_loss_is_one_line() -> None:
    with pytest.raises(InputError, match="none of 2 gave one"):
        choose([trial(None), trial(None)], max_z=3.0)


def watched(results: Path) -> ExperimentConfig:
    """Two trials: one that learns nothing, and one of the same that learns; both looked at."""
    config = cell(results, 2, {"optimizer.learning_rate": [2e-2]})
    return replace(config, budget=BudgetConfig("test", 2_000), tuning=replace(config.tuning, monitor=("closure", "calibration")))


def test_monitors_are_recorded_and_shown(tmp_path: Path) -> None:
    record = run_experiment(watched(tmp_path))
    assert record is not None
    assert record.status == "ok", record.reason
    for one in record.trials:
        assert [row.name for row in one.monitors] == ["mean_ratio", "ece", "calibration_slope"]
        assert all(row.at["where"] == "validation" and row.stderr is not None for row in one.monitors if row.value is not None)
    assert read_records(tmp_path)[0].trials == record.trials
    (block,) = [block for block in show_run(tmp_path, record.run_id) if block.title == "run"]
    told = [value for what, value in block.rows if what == "trial"]
    assert all(" loss " in text and "mean_ratio" in text and "calibration_slope" in text for text in told)
    assert sum("chosen" in text for text in told) == 1
    assert "'tuning.monitor=[closure,calibration]'" in repeat_command(record)


def test_a_search_sees_no_event_but_those_of_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, toy = watched(tmp_path), build_toy("gaussian_shift")
    drawn: list[bytes] = []
    sample = type(toy).sample

    def spied(self: Toy, theta: torch.Tensor, *, generator: torch.Generator) -> Events:
        events = sample(self, theta, generator=generator)
        drawn.append(events.x.numpy().tobytes())
        return events

    monkeypatch.setattr(type(toy), "sample", spied)
    tune(config, toy)
    # The training events, whenever they are asked for.
    assert len(drawn) >= 3
    assert len(set(drawn)) == 1
    assert len(drawn[0]) == 4 * config.budget.n_train


def test_a_search_on_a_fixed_sample_leaves_its_test_events_alone(tmp_path: Path, plant: Any) -> None:
    class TrainOnly(plant.Finite):
        def pool(self, split: str) -> Events:
            assert split == "train"
            return super().pool(split)

    trials = tune(watched(tmp_path), TrainOnly())[1]
    assert all(row.value is not None for one in trials for row in one.monitors if row.name != "calibration_slope")
