"""Experiment tracking: every tracker is told the losses that the training itself keeps."""

from __future__ import annotations

import csv
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from touchneedle.benchmark.config import (
    ComponentConfig,
    EnsembleConfig,
    ExperimentConfig,
    OptimizerConfig,
    TrackingConfig,
    TrainerConfig,
)
from touchneedle.benchmark.csv_follower import CsvFollower
from touchneedle.benchmark.fitted import fitted
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.stage_training import NonFiniteLoss
from touchneedle.benchmark.tracking import TrackingStopped
from touchneedle.benchmark.training_log import TrainingLog
from touchneedle.conf.errors import InputError
from touchneedle.toys.base import build_toy

Losses = dict[str, list[float]]


def cell(results: Path, tracker: str, **changes: object) -> ExperimentConfig:
    trainer = TrainerConfig(max_epochs=3, progress=False, accelerator="cpu")
    values = {"estimator": ComponentConfig("ratio_bce"), "trainer": trainer, "tracking": TrackingConfig(tracker)} | changes
    return ExperimentConfig(ComponentConfig("gaussian_shift"), results=str(results), **values)  # type: ignore[arg-type]


def train(config: ExperimentConfig) -> tuple[str, TrainingLog]:
    fit_id = identify(config)[0]
    return fit_id, fitted(config, build_toy(config.toy.name), fit_id)[1]


def from_csv(results: Path, fit_id: str) -> Losses:
    with (results / "tracking" / fit_id / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row.pop("step")) for row in rows] == list(range(len(rows)))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def from_tensorboard(results: Path, fit_id: str) -> Losses:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(results / "tracking" / "tensorboard" / fit_id)).Reload()
    return {name: [event.value for event in found.Scalars(name)] for name in found.Tags()["scalars"] if name != "epoch"}


def from_mlflow(results: Path, fit_id: str) -> Losses:
    client = pytest.importorskip("mlflow").MlflowClient((results / "tracking" / "mlruns").absolute().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("touchneedle").experiment_id])
    assert (run.info.run_name, run.info.status) == (fit_id, "FINISHED")
    names = [name for name in run.data.metrics if name != "epoch"]
    return {name: [metric.value for metric in client.get_metric_history(run.info.run_id, name)] for name in names}


@pytest.mark.parametrize(
    ("tracker", "package", "read"),
    [("csv", "csv", from_csv), ("tensorboard", "tensorboard", from_tensorboard), ("mlflow", "mlflow", from_mlflow)],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_tracker_is_told_the_losses_that_the_record_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, package: str, read: Callable[[Path, str], Losses]
) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    fit_id, log = train(cell(tmp_path, tracker))
    told = read(tmp_path, fit_id)
    assert set(told) == {"train/train", "train/validation"}
    assert told["train/train"] == pytest.approx(log.train_loss, rel=1e-6)
    assert told["train/validation"] == pytest.approx(log.validation_loss, rel=1e-6)


def test_tracking_is_no_part_of_a_run_and_changes_nothing(tmp_path: Path) -> None:
    quiet, tracked = (cell(tmp_path / name, name) for name in ("none", "csv"))
    assert identify(quiet) == identify(tracked)
    assert train(quiet)[1].validation_loss == train(tracked)[1].validation_loss
    assert not (tmp_path / "none" / "tracking").exists()


def test_an_ensemble_is_followed_by_its_first_member(tmp_path: Path) -> None:
    fit_id, log = train(cell(tmp_path, "csv", ensemble=EnsembleConfig(members=2)))
    assert from_csv(tmp_path, fit_id)["train/validation"] == pytest.approx(log.validation_loss, rel=1e-12)


def test_a_table_has_a_column_for_each_loss_of_each_stage(tmp_path: Path) -> None:
    follower = CsvFollower(tmp_path / "fit" / "metrics.csv")
    for step, losses in enumerate(({"b/train": 2.0}, {"b/train": 1.5}, {"a/train": 0.25})):
        follower.log_metrics(losses, step)
        follower.save()
    assert follower.path.read_text().splitlines() == ["a/train,b/train,step", ",2.0,0", ",1.5,1", "0.25,,2"]
    assert [path.name for path in follower.path.parent.iterdir()] == ["metrics.csv"]


class Told:
    """A follower that remembers."""

    def __init__(self) -> None:
        self.epochs: list[int | None] = []
        self.ends: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.epochs.append(step)

    def save(self) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.ends.append(status)


def test_a_follower_is_told_once_how_the_training_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = Told(), Told()
    monkeypatch.setattr("touchneedle.benchmark.tracking._build", lambda config, results, fit_id: good)
    train(cell(tmp_path, "csv"))
    assert (good.epochs, good.ends) == ([0, 1, 2], ["success"])
    monkeypatch.setattr("touchneedle.benchmark.tracking._build", lambda config, results, fit_id: bad)
    with pytest.raises(NonFiniteLoss):
        train(cell(tmp_path, "csv", optimizer=OptimizerConfig(learning_rate=1e30)))
    assert bad.ends == ["failed"]
    assert len(bad.epochs) < 3


class Broken(Told):
    """A follower that fails at one of its calls."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.calls: list[str] = []
        setattr(self, call, self.fail)

    def fail(self, *_: object) -> None:
        self.calls.append("failed")
        raise RuntimeError("503 Service Unavailable\nwith a page of HTML")


@pytest.mark.parametrize("call", ["log_metrics", "save", "finalize"])
def test_a_tracker_that_fails_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    broken = Broken(call)
    monkeypatch.setattr("touchneedle.benchmark.tracking._build", lambda config, results, fit_id: broken)
    with pytest.warns(TrackingStopped, match=r"^tracking=csv stopped, the training goes on: 503 Service Unavailable$") as warned:
        log = train(cell(tmp_path, "csv"))[1]
    assert len(log.validation_loss) == 3
    assert len([warning for warning in warned if warning.category is TrackingStopped]) == 1
    assert broken.calls == ["failed"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_server_that_does_not_answer_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    with socket.socket() as nobody:
        # Bound, and not listening: every connection is refused.
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.warns(TrackingStopped, match=r"^tracking=mlflow stopped, the training goes on: .*127\.0\.0\.1"):
            log = train(cell(tmp_path, "mlflow"))[1]
    assert len(log.validation_loss) == 3


def test_a_tracker_without_its_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("touchneedle.benchmark.tracking.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tracking=mlflow: expected the package mlflow; it is not installed"):
        train(cell(tmp_path, "mlflow"))
