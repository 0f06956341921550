"""Training events of a cell: by its configuration they come from the toy or files, in memory or streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.toys.root_writing import as_root
from touchneedle.benchmark.config import (
    BudgetConfig,
    ComponentConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    TrainerConfig,
    parse_config,
)
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.deploy import deploy
from touchneedle.benchmark.drawn_events import DrawnEvents
from touchneedle.benchmark.fitted import Retraining
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.records import Record, record_path
from touchneedle.benchmark.run import run_experiment
from touchneedle.benchmark.training_source import training_events
from touchneedle.conf.errors import InputError, SkipCell
from touchneedle.inference import load_bundle
from touchneedle.toys.base import Events, build_toy, collect
from touchneedle.toys.event_layout import write_events

TOY = build_toy("fnf_two_class")
FAST = TrainerConfig(max_epochs=2, batch_size=128, validation_fraction=0.1, progress=False, accelerator="cpu")


@pytest.fixture(scope="module")
def events() -> Events:
    return make_events(TOY, 1_500, "prior", 0)


@pytest.fixture(scope="module")
def file(events: Events, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("events") / "events.parquet", events, TOY.spec, 50)


def cell(results: Path, **changes: object) -> ExperimentConfig:
    values: dict[str, object] = {
        "toy": ComponentConfig("fnf_two_class"),
        "estimator": ComponentConfig("ratio_bce", {"hidden": [8]}),
        "budget": BudgetConfig("test", 1_000),
        "evaluation": EvaluationConfig("tiny", n_points=1, n_test=200, n_pool=500, n_events=(50,), families=("closure",)),
        "trainer": FAST,
        "results": str(results),
    }
    return ExperimentConfig(**(values | changes))  # type: ignore[arg-type]


def run(config: ExperimentConfig) -> Record:
    record = run_experiment(config)
    assert record is not None
    assert record.status == "ok", record.reason
    return record


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5GiB", 3 * 2**29), (4_096, 4_096), (None, None)])
def test_sizes_of_memory(text: object, size: int | None) -> None:
    config = parse_config({"toy": {"name": "slcp"}, "estimator": {"name": "ratio_bce"}, "data": {"memory_limit": text}})
    assert config.data.memory_limit == size


@pytest.mark.parametrize("text", ["2 parsecs", "much", "0GB", "-1GB", [2]])
def test_what_is_no_size_is_one_line(text: object) -> None:
    with pytest.raises(InputError, match=r"option data\.memory_limit: .*expected a size such as 2GB or 500MiB; got") as caught:
        parse_config({"toy": {"name": "slcp"}, "estimator": {"name": "ratio_bce"}, "data": {"memory_limit": text}})
    assert "\n" not in str(caught.value)


def test_a_limit_enters_the_identity_only_where_events_exceed_it(tmp_path: Path) -> None:
    plain = identify(cell(tmp_path))
    assert identify(cell(tmp_path, data=DataConfig(10**9, workers=5))) == plain
    small, smaller = (identify(cell(tmp_path, data=DataConfig(limit))) for limit in (100_000, 90_000))
    assert len({plain, small, smaller}) == 3
    assert identify(cell(tmp_path, data=DataConfig(100_000, workers=5))) == small


def test_events_of_a_toy_beyond_the_limit_are_streamed_and_leave_nothing_behind(tmp_path: Path) -> None:
    config = cell(tmp_path / "results", data=DataConfig(200_000))
    record = run(config)
    assert record.config["data"]["memory_limit"] == 200_000
    rows = {row.name: row.value for row in record.metrics}
    assert rows["reused_share"] == 0
    assert [path.name for path in (tmp_path / "results" / "fits").iterdir()] == [record.fit_id]
    source = training_events(config, TOY)
    assert isinstance(source, DrawnEvents)
    bundle = load_bundle(deploy(record_path(config.results, record.run_id), tmp_path / "bundle", ()))
    assert bundle.manifest.training.events == 1_000


def test_drawn_events_are_the_same_in_every_pass_and_follow_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("touchneedle.benchmark.drawn_events._CHUNK", 300)
    source = DrawnEvents(TOY, 1_000, "templates", 0)  # type: ignore[arg-type]
    first, second = collect(source), collect(source)
    assert len(first) == 1_000
    assert torch.equal(first.x, second.x)
    nuisances = list(TOY.spec.parameters.nuisance)
    shares = torch.unique(first.theta[:, nuisances], dim=0, return_counts=True)[1]
    assert len(shares) == 1 + 2 * len(nuisances)
    assert int(shares.max() - shares.min()) <= 4
    other = collect(DrawnEvents(TOY, 1_000, "templates", 1))  # type: ignore[arg-type]
    assert not torch.equal(first.x, other.x)
    with pytest.raises(InputError, match="expected no generator"):
        source.batches(10, torch.Generator())


def test_a_finite_sample_beyond_the_limit_is_skipped_with_its_reason(tmp_path: Path) -> None:
    toy = ComponentConfig("drell_yan_angular_mc")
    record = run_experiment(cell(tmp_path, toy=toy, data=DataConfig(10_000)))
    assert record is not None
    assert record.status == "skipped"
    assert "are a sample in memory, beyond data.memory_limit" in record.reason


# Files.


def test_files_replace_the_events_of_the_toy(events: Events, file: Path, tmp_path: Path) -> None:
    config = cell(tmp_path / "a", data=DataConfig(training=str(file.parent / "*.parquet")))
    record = run(config)
    assert (record.budget.name, record.budget.n_train) == ("files", 1_500)
    moved = tmp_path / "moved.parquet"
    moved.write_bytes(file.read_bytes())
    there = cell(tmp_path / "b", data=DataConfig(training=str(moved)), budget=BudgetConfig("other", 7))
    assert identify(there)[0] == record.fit_id
    write_events(moved, events.with_weight(events.weight + 1), TOY.spec)
    assert identify(there)[0] != record.fit_id
    assert run(config).run_id == record.run_id


def test_files_of_root_and_their_tree_enter_the_identity(events: Events, tmp_path: Path) -> None:
    path = as_root(write_events(tmp_path / "events.parquet", events[:300], TOY.spec))
    plain, named, wrong = (cell(tmp_path, data=DataConfig(training=str(path), tree=tree)) for tree in ("", "events", "other"))
    assert len({identify(config) for config in (plain, named)}) == 2
    assert run(named).budget.n_train == 300
    record = run_experiment(wrong)
    assert record is not None
    assert record.reason == f"event file {path}: no tree 'other'; its trees are events"


def test_missing_files_are_a_failed_record_of_one_line(tmp_path: Path) -> None:
    record = run_experiment(cell(tmp_path, data=DataConfig(training="nowhere/*.parquet")))
    assert record is not None
    assert record.status == "failed"
    assert record.reason.startswith("training events nowhere/*.parquet: expected a parquet or ROOT file")


def test_files_do_not_train_independent_networks(file: Path, tmp_path: Path) -> None:
    """A metric that asks for them is n/a with this reason."""
    with pytest.raises(SkipCell, match="evaluation.retrain needs an event set for each network; data.training gives one"):
        Retraining(cell(tmp_path, data=DataConfig(training=str(file))), TOY)(0)
