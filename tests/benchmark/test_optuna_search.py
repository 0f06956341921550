"""The search by Optuna: killed and resumed, shared by processes, and kept in a file that says so when it is broken."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from touchneedle.benchmark import tuning
from touchneedle.benchmark.compose import compose_cell
from touchneedle.benchmark.config import BudgetConfig, ComponentConfig, ExperimentConfig, TrainerConfig, TuningConfig
from touchneedle.benchmark.optuna_search import OptunaSearch
from touchneedle.benchmark.records import Metric, Trial
from touchneedle.benchmark.search_space import Range
from touchneedle.benchmark.tuning import tune
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Toy, build_toy

SPACE = {
    "optimizer.learning_rate": Range(1e-4, 1e-1, log=True),
    "trainer.batch_size": [128, 256, 512],
    "trainer.patience": Range(1, 10),
    "estimator.hidden": [[4], [8, 8]],
}


@pytest.fixture(autouse=True)
def optuna() -> Any:
    return pytest.importorskip("optuna", reason="needs the extra search")


def cell(results: Path, trials: int = 16, **changes: Any) -> ExperimentConfig:
    return ExperimentConfig(
        toy=ComponentConfig("gaussian_shift"),
        estimator=ComponentConfig("ratio_bce", {"hidden": [4]}),
        budget=BudgetConfig("test", 2_000),
        trainer=TrainerConfig(max_epochs=2, batch_size=256, progress=False, accelerator="cpu"),
        tuning=TuningConfig("test", trials, SPACE, "tpe", **changes),
        results=str(results),
    )


class Killed(BaseException):
    """What ends a process, for a test."""


class Trainings:
    """Stands in for training: a bowl with its lowest point at a learning rate of 0.01, infeasible above 0.02; may be killed."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self.kill_at = -1

    def __call__(self, config: ExperimentConfig, toy: Toy, events: Events | None, options: dict[str, Any]) -> Trial:
        if len(self.done) == self.kill_at:
            raise Killed
        self.done.append(options)
        rate = options.get("optimizer.learning_rate", config.optimizer.learning_rate)
        loss = (math.log10(rate) + 2) ** 2 + options.get("trainer.batch_size", 256) / 1_000
        row = Metric(family="closure", name="mean_ratio", at={"z": 1e3 * rate - 17}, value=1.0, stderr=0.1, direction="target")
        diverged = options.get("trainer.patience") == 1
        return Trial(options=options, fit_id="x", validation_loss=None if diverged else loss, seconds=1.0, chosen=False, monitors=[row])


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    stand_in = Trainings()
    monkeypatch.setattr(tuning, "_tried", stand_in)
    return stand_in


TOY = build_toy("gaussian_shift")


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path, trainings: Trainings) -> None:
    whole = tune(cell(tmp_path / "whole"), TOY)
    assert [one.options for one in whole[1]] == trainings.done
    trainings.done = []
    for trainings.kill_at in (0, 5, 12):
        with pytest.raises(Killed):
            tune(cell(tmp_path / "killed"), TOY)
    trainings.kill_at = -1
    resumed = tune(cell(tmp_path / "killed"), TOY)
    assert resumed[1] == whole[1]
    assert resumed[0] == replace(whole[0], results=str(tmp_path / "killed"))
    # No trial was run twice, and a search that is done runs none.
    assert len(trainings.done) == 16
    assert tune(cell(tmp_path / "killed"), TOY) == resumed
    assert len(trainings.done) == 16


def test_a_longer_search_goes_on_with_the_shorter_one(tmp_path: Path, trainings: Trainings) -> None:
    short = tune(cell(tmp_path, 12), TOY)[1]
    long = tune(cell(tmp_path, 15), TOY)[1]
    assert [one.options for one in long[:12]] == [one.options for one in short]
    assert len(trainings.done) == 15
    assert [one.options for one in tune(cell(tmp_path, 3), TOY)[1]] == [one.options for one in long[:3]]
    assert len(trainings.done) == 15


def test_searches_follow_their_seed(tmp_path: Path, trainings: Trainings) -> None:
    first, other = (tune(replace(cell(tmp_path, 4), seed=seed), TOY)[1] for seed in (0, 1))
    assert first[0].options == other[0].options == {}
    assert all(one.options != two.options for one, two in zip(first[1:], other[1:], strict=True))


def test_what_is_proposed_lies_in_the_space_and_is_learned_from_what_came_before(tmp_path: Path, trainings: Trainings) -> None:
    _, trials = tune(cell(tmp_path, 30), TOY)
    for one in trials[1:]:
        assert one.options["optimizer.learning_rate"] in SPACE["optimizer.learning_rate"]
        assert one.options["estimator.hidden"] in SPACE["estimator.hidden"]
        assert type(one.options["trainer.patience"]) is int
    # Ten trials at random, then near the bowl's lowest point: half of a decade around it, of three.
    near = [abs(math.log10(one.options["optimizer.learning_rate"]) + 2) < 0.5 for one in trials[1:]]
    assert sum(near[-15:]) > sum(near[:9]) + 3
    (chosen,) = [one for one in trials if one.chosen]
    feasible = [one for one in trials if one.validation_loss is not None and abs(float(one.monitors[0].at["z"] or 0)) <= 3 + 1e-9]
    assert chosen.validation_loss == min(one.validation_loss for one in feasible if one.validation_loss is not None)


def test_processes_that_share_a_search_run_every_trial_once(tmp_path: Path) -> None:
    """Two hands on one file: whatever their order, the trials are those of one hand, each written once."""
    alone = OptunaSearch(cell(tmp_path / "alone"))
    one, two = (OptunaSearch(cell(tmp_path / "shared")) for _ in range(2))
    train = Trainings()

    def step(search: OptunaSearch, seen: list[Trial]) -> None:
        options = search.ask(seen) if seen else {}
        search.tell(len(seen), train(search.config, TOY, None, options))

    for _ in range(6):
        step(alone, alone.finished())
        seen = one.finished()
        assert two.finished() == seen
        threads = [threading.Thread(target=step, args=(search, seen)) for search in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert one.finished() == two.finished() == alone.finished()
    assert len(one.finished()) == 6


def test_a_line_torn_by_a_kill_is_cut_and_a_broken_file_is_one_line(tmp_path: Path, trainings: Trainings) -> None:
    before = tune(cell(tmp_path, 3), TOY)[1]
    (journal,) = (tmp_path / "searches").iterdir()
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    assert tune(cell(tmp_path, 3), TOY)[1] == before
    assert len(tune(cell(tmp_path, 4), TOY)[1]) == 4
    lines = journal.read_text().splitlines(keepends=True)
    for broken in ([lines[0], "nonsense\n", *lines[1:]], [*lines[:2], '{"op_code": 4}\n', *lines[2:]], ["3\n"]):
        journal.write_text("".join(broken))
        with pytest.raises(InputError, match=rf"search {journal}: expected a journal of Optuna; it is corrupt; delete it") as caught:
            tune(cell(tmp_path, 4), TOY)
        assert "\n" not in str(caught.value)
    journal.unlink()
    assert len(tune(cell(tmp_path, 4), TOY)[1]) == 4


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, trainings: Trainings) -> None:
    (tmp_path / "searches").write_text("in the way")
    with pytest.raises(InputError, match="choose a writable folder"):
        tune(cell(tmp_path, 2), TOY)


def test_without_the_package_it_is_one_line_before_any_training(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("touchneedle.benchmark.optuna_search.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tuning.sampler=tpe: expected the package optuna; .* \(pip install touchneedle\[search\]\)"):
        tune(cell(tmp_path), TOY)
    assert not trainings.done


def test_optuna_is_as_talkative_as_before(tmp_path: Path, trainings: Trainings, optuna: Any, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    tune(cell(tmp_path, 3), TOY)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""


def test_trainings_that_are_killed_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: killed between a training and its line in the file, which then is written without training again."""
    config = cell(tmp_path / "killed", 3, monitor=("closure", "calibration"))
    tell = OptunaSearch.tell

    def killed(self: OptunaSearch, number: int, trial: Trial) -> None:
        if number == 1:
            raise Killed
        tell(self, number, trial)

    monkeypatch.setattr(OptunaSearch, "tell", killed)
    with pytest.raises(Killed):
        tune(config, TOY)
    monkeypatch.undo()
    kept = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "killed" / "fits").iterdir()}
    assert len(kept) == 2
    trials = tune(config, TOY)[1]
    assert {folder: folder.stat().st_mtime_ns for folder in kept} == kept
    whole = tune(replace(config, results=str(tmp_path / "whole")), TOY)[1]
    assert [one.model_copy(update={"seconds": 0.0}) for one in trials] == [one.model_copy(update={"seconds": 0.0}) for one in whole]


def test_the_preset_composes_to_a_space_that_fits() -> None:
    config = compose_cell(["tuning=optuna", "estimator=ratio_bce", "budget=small"])
    assert (config.tuning.sampler, config.tuning.monitor) == ("tpe", ("closure", "calibration"))
    tuning.check_space(config)
