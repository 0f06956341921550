"""Retrained networks in a run: independent, kept, counted in the cost, and found again."""

from pathlib import Path

from touchneedle.benchmark.config import BudgetConfig, ComponentConfig, EvaluationConfig, ExperimentConfig
from touchneedle.benchmark.fitted import Retraining
from touchneedle.benchmark.run import run_experiment
from touchneedle.toys.base import build_toy

EVALUATION = EvaluationConfig("tiny", n_experiments=5, n_points=1, n_test=200, n_events=(50,), n_pool=500, retrain=10, families=("fit",))


def cell(results: Path) -> ExperimentConfig:
    return ExperimentConfig(
        toy=ComponentConfig("gaussian_shift"),
        estimator=ComponentConfig("best_gaussian"),
        budget=BudgetConfig("test", 400),
        evaluation=EVALUATION,
        results=str(results),
    )


def test_a_run_trains_its_networks_once_and_finds_them_again(tmp_path: Path) -> None:
    record = run_experiment(cell(tmp_path))
    assert record is not None
    assert record.status == "ok", record.reason
    rows = {row.name: row for row in record.metrics if row.at.get("network") == "retrained"}
    assert set(rows) == {"bias_vs_oracle", "coverage_68", "coverage_95", "training_spread"}
    assert all(row.value is not None and row.at["networks"] == 10 for row in rows.values())
    assert rows["training_spread"].value
    assert record.cost["retrained_networks"] == 10
    kept = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "fits").iterdir()}
    assert len(kept) == 11
    again = run_experiment(cell(tmp_path), force=True)
    assert again is not None
    assert again.metrics == record.metrics
    assert again.cost["retrain_seconds"] == record.cost["retrain_seconds"]
    assert {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "fits").iterdir()} == kept


def test_networks_differ_in_their_events(tmp_path: Path) -> None:
    train = Retraining(cell(tmp_path), build_toy("gaussian_shift"))
    first, second, again = (train(k).state_dict() for k in (0, 1, 0))
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert any(bool((first[name] != second[name]).any()) for name in first)
