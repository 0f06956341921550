"""One cell: record, resume, failure, skip, kill, and two processes on one results folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from touchneedle.benchmark.cell_checks import check_config
from touchneedle.benchmark.config import BudgetConfig, ComponentConfig, EvaluationConfig, ExperimentConfig, TrainerConfig
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import Record, read_records
from touchneedle.benchmark.run import evaluate_fits, run_experiment
from touchneedle.conf.errors import InputError

ROOT = Path(__file__).parents[2]
TINY = EvaluationConfig(
    name="tiny", n_experiments=10, n_points=1, n_test=500, n_events=(50,), n_pool=1_000, n_sample=200, n_posterior=50, n_set=(1,)
)


def cell(
    results: Path, estimator: str | ComponentConfig = "best_gaussian", toy: str = "gaussian_shift", **changes: object
) -> ExperimentConfig:
    values: dict[str, object] = {
        "toy": ComponentConfig(toy),
        "estimator": estimator if isinstance(estimator, ComponentConfig) else ComponentConfig(estimator),
        "budget": BudgetConfig("test", 400),
        "evaluation": TINY,
        "trainer": TrainerConfig(max_epochs=2, progress=False, accelerator="cpu"),
        "results": str(results),
    }
    return ExperimentConfig(**(values | changes))  # type: ignore[arg-type]


def run(config: ExperimentConfig) -> Record:
    record = run_experiment(config)
    assert record is not None
    return record


def deterministic(record: Record) -> list[object]:
    return [row.model_dump() for row in record.metrics]


def test_a_run_leaves_one_record_and_is_not_repeated(tmp_path: Path) -> None:
    config = cell(tmp_path, "oracle")
    record = run(config)
    assert record.status == "ok", record.reason
    assert {row.family for row in record.metrics} == {"density", "calibration", "closure", "fit", "gates"}
    assert all(row.stderr is not None or row.value is None for row in record.metrics), [row for row in record.metrics if row.stderr is None]
    file = tmp_path / f"{record.run_id}.json"
    written = file.stat().st_mtime_ns
    assert run(config) == record
    assert file.stat().st_mtime_ns == written
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_equation_tells_its_evaluations_or_fails_with_its_reason(tmp_path: Path) -> None:
    evaluation = EvaluationConfig(n_test=100, n_sample=50, families=("density",))
    record = run(cell(tmp_path, ComponentConfig("flow_matching", {"hidden": (8, 8)}), evaluation=evaluation))
    assert record.status == "ok", record.reason
    assert record.cost["ode_evaluations"] == 4 * int(record.cost["ode_steps"] or 0) > 0
    assert 0 < float(record.cost["ode_error"] or 0) <= 3e-3
    impossible = ComponentConfig("flow_matching", {"tolerance": 1e-30, "max_steps": 8})
    failed = run(cell(tmp_path, evaluation=evaluation, estimator=impossible))
    assert failed.status == "failed"
    assert failed.reason.startswith("the learned velocity cannot be integrated")


def test_the_oracle_has_no_divergence(tmp_path: Path) -> None:
    rows = {row.name: row for row in run(cell(tmp_path, "oracle")).metrics if row.family == "density"}
    for name in ("kl", "kl_positive", "log_ratio_rmse", "log_ratio_median"):
        assert rows[name].value == pytest.approx(0, abs=1e-6), name


@pytest.mark.parametrize("estimator", ["ratio_bce", pytest.param("zuko_nsf", marks=pytest.mark.slow)])
def test_the_same_cell_gives_the_same_rows(tmp_path: Path, estimator: str) -> None:
    first, second = (run(cell(tmp_path / name, estimator)) for name in "ab")
    assert first.status == "ok", first.reason
    assert first.run_id == second.run_id
    assert deterministic(first) == deterministic(second)


def test_records_say_how_many_threads_computed(tmp_path: Path) -> None:
    threads = torch.get_num_threads() + 1
    record = run(cell(tmp_path, trainer=TrainerConfig(max_epochs=2, threads=threads)))
    assert record.cost["threads"] == record.environment["threads"] == threads
    assert torch.get_num_threads() == threads - 1


def test_identity_follows_what_affects_training_and_nothing_else(tmp_path: Path) -> None:
    base = identify(cell(tmp_path))
    same = [cell(tmp_path / "b"), cell(tmp_path, trainer=TrainerConfig(max_epochs=2, progress=True, accelerator="auto", threads=1))]
    same.append(cell(tmp_path, toy="gaussian_shift", estimator="best_gaussian", budget=BudgetConfig("other", 400)))
    assert all(identify(config) == base for config in same)
    other = [
        cell(tmp_path, seed=1),
        cell(tmp_path, "oracle"),
        cell(tmp_path, toy="mass_bump"),
        cell(tmp_path, budget=BudgetConfig("test", 401)),
    ]
    other += [cell(tmp_path, design="templates"), cell(tmp_path, trainer=TrainerConfig(max_epochs=3))]
    assert len({identify(config)[0] for config in other} | {base[0]}) == len(other) + 1
    fit_id, run_id = identify(cell(tmp_path, evaluation=EvaluationConfig()))
    assert fit_id == base[0]
    assert run_id != base[1]


def test_defaults_written_out_are_the_same_cell(tmp_path: Path) -> None:
    explicit = cell(tmp_path, "ratio_bce")
    explicit.estimator.params["hidden"] = [128, 128, 128]
    assert identify(explicit) == identify(cell(tmp_path, "ratio_bce"))


def test_an_unsuitable_pair_is_skipped_with_its_reason(tmp_path: Path) -> None:
    record = run(cell(tmp_path, "posterior_flow", design="templates"))
    assert record.status == "skipped"
    assert "uses design prior; got templates" in record.reason
    assert record.traceback == ""
    assert read_records(tmp_path) == [record]


def test_a_budget_beyond_a_finite_pool_is_skipped(tmp_path: Path, event_file: Path) -> None:
    config = cell(tmp_path, "ratio_bce", "event_table", budget=BudgetConfig("large", 1_000_000))
    config.toy.params |= {"path": str(event_file), "signal": ["htautau"]}
    record = run(config)
    assert record.status == "skipped"
    assert "set budget.n_train=" in record.reason


def test_real_events_run_through(tmp_path: Path, event_file: Path) -> None:
    config = cell(tmp_path, "ratio_bce", "event_table", budget=BudgetConfig("test", 200))
    config.toy.params |= {"path": str(event_file), "signal": ["htautau"]}
    record = run(config)
    assert record.status == "ok", record.reason
    values = {row.name: row for row in record.metrics}
    assert values["kl"].value is None
    assert values["kl"].at["reason"] == "the toy has no exact density"
    assert values["pull_width"].value is not None


@pytest.fixture
def event_file(tmp_path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1_000, generator=generator, dtype=torch.float64)
    signal = torch.rand(1_000, generator=generator) < 0.4
    path = tmp_path / "events.parquet"
    table = {
        "mass": (x + 1.5 * signal).numpy(),
        "weights": (0.5 + torch.rand(1_000, generator=generator)).numpy(),
        "detailed_labels": ["htautau" if s else "ztautau" for s in signal.tolist()],
    }
    pq.write_table(pa.table(table), path)
    return path


def test_a_failure_becomes_a_record_and_is_tried_again(tmp_path: Path) -> None:
    config = cell(tmp_path, "breaks", plugins=[str(write_plugin(tmp_path, "breaks", "raise RuntimeError('numbers ran out')"))])
    first = run(config)
    assert first.status == "failed"
    assert first.reason == "RuntimeError: numbers ran out"
    assert "Traceback" in first.traceback
    assert len(list(tmp_path.glob("calls.*"))) == 1
    run(config)
    assert len(list(tmp_path.glob("calls.*"))) == 2
    assert len(read_records(tmp_path)) == 1


def test_a_missing_input_file_is_a_failed_record(tmp_path: Path) -> None:
    config = cell(tmp_path, "ratio_bce", "event_table")
    config.toy.params["path"] = str(tmp_path / "none.parquet")
    record = run(config)
    assert record.status == "failed"
    assert "none.parquet" in record.reason
    assert "\n" not in record.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "ratio_bcf"}, "did you mean 'ratio_bce'"),
        ({"toy": "two_moon"}, "did you mean 'two_moons'"),
        ({"budget": BudgetConfig("none", 0)}, r"budget\.n_train: expected at least 2 events; got 0"),
    ],
)
def test_wrong_names_fail_before_any_job(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_config(cell(tmp_path, **changes))  # type: ignore[arg-type]


def test_a_corrupt_record_is_replaced(tmp_path: Path) -> None:
    record = run(cell(tmp_path))
    (tmp_path / f"{record.run_id}.json").write_text("{")
    assert deterministic(run(cell(tmp_path))) == deterministic(record)


def test_more_scores_come_without_retraining(tmp_path: Path) -> None:
    config = cell(tmp_path, "counts", plugins=[str(write_plugin(tmp_path, "counts", "pass"))])
    first = run(config)
    assert first.status == "ok", first.reason
    (more,) = evaluate_fits(tmp_path, EvaluationConfig(name="more", n_experiments=12, n_test=600, n_events=(50,), n_pool=1_000))
    assert (more.fit_id, more.run_id != first.run_id) == (first.fit_id, True)
    assert len(list(tmp_path.glob("calls.*"))) == 1
    assert len(read_records(tmp_path)) == 2


def test_an_unwritable_results_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write there .*choose another with results=FOLDER"):
        run_experiment(cell(tmp_path / "file"))


# A plugin whose estimator leaves a file for every training, then does what the test says.
PLUGIN = '''
import os, pathlib, signal, uuid
from dataclasses import dataclass
import torch
from touchneedle.estimators.base import Estimator, register_estimator

FOLDER = pathlib.Path({folder!r})

def once():
    """True the first time that any process asks."""
    try:
        (FOLDER / "killed").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def die():
    if once():
        os.kill(os.getpid(), signal.SIGKILL)

@dataclass
class Config:
    pass

@register_estimator({name!r})
class Plugin(Estimator):
    Config = Config
    normalised = True
    def _prepare(self, source):
        (FOLDER / f"calls.{{uuid.uuid4().hex}}").touch()
        {action}
    def _log_ratio(self, x, theta):
        {scoring}
        return x[:, 0] * theta[:, 0] - theta[:, 0] ** 2 / 2

{module}
'''

KILL_WHILE_WRITING_RECORD = """
import touchneedle.benchmark.records as records
_replace = os.replace
def replace(source, target):
    if str(target).endswith(".json"):
        die()
    _replace(source, target)
records.os.replace = replace
"""


def write_plugin(folder: Path, name: str, action: str, scoring: str = "pass", module: str = "") -> Path:
    path = folder / f"{name}.py"
    path.write_text(PLUGIN.format(folder=str(folder), name=name, action=action, scoring=scoring, module=module))
    return path


RUN_CELLS = """
import sys
from touchneedle.benchmark.config import *
from touchneedle.benchmark.run import run_experiment
results, plugin, name = sys.argv[1:4]
for seed in range(3):
    run_experiment(ExperimentConfig(
        toy=ComponentConfig("gaussian_shift"), estimator=ComponentConfig(name), seed=seed, results=results,
        budget=BudgetConfig("test", 400),
        evaluation=EvaluationConfig(n_experiments=10, n_test=500, n_sample=20, n_events=(50,), n_pool=1_000, families=("density",)),
        plugins=[plugin],
    ))
"""


def start_cells(results: Path, plugin: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN_CELLS, str(results), str(plugin), name], cwd=ROOT / ".typing")


MOMENTS = {
    "training": {"action": "die()"},
    "scoring": {"action": "pass", "scoring": "die()"},
    "writing": {"action": "pass", "module": KILL_WHILE_WRITING_RECORD},
}


# Kills at every write are in `test_faults`.
@pytest.mark.parametrize("moment", [name if name == "writing" else pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS])
def test_a_killed_sweep_completes_when_repeated(tmp_path: Path, moment: str) -> None:
    plugin = write_plugin(tmp_path, "mortal", **MOMENTS[moment])
    results = tmp_path / "results"
    assert start_cells(results, plugin, "mortal").wait() == -signal.SIGKILL
    assert start_cells(results, plugin, "mortal").wait() == 0
    records = read_records(results)
    assert [record.status for record in records] == ["ok"] * 3, [record.reason for record in records]
    assert {record.seed for record in records} == {0, 1, 2}
    trainings = len(list(tmp_path.glob("calls.*")))
    assert trainings == (4 if moment == "training" else 3)
    assert not list(results.rglob("*.tmp"))


@pytest.fixture
def both(tmp_path: Path) -> list[subprocess.Popen[bytes]]:
    plugin = write_plugin(tmp_path, "shared", "pass")
    return [start_cells(tmp_path / "results", plugin, "shared") for _ in range(2)]


def test_two_processes_never_run_the_same_cell_twice(tmp_path: Path, both: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait() for process in both] == [0, 0]
    assert len(read_records(tmp_path / "results")) == 3
    assert len(list(tmp_path.glob("calls.*"))) == 3
