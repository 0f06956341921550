"""One training by several processes: the same steps, weights and end as in one; a rank that fails or dies ends all."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_trainings import RANKS, ratio_bce, ratio_of_shares, spline_flow, train_double, train_every, train_shared, trainer_of
from torch import Tensor

from touchneedle.benchmark.cell_checks import check_config
from touchneedle.benchmark.config import ComponentConfig, DataConfig, EnsembleConfig, ExperimentConfig, TrainerConfig
from touchneedle.benchmark.identity import identify
from touchneedle.benchmark.ranks import check_ranks, peak_memory_mb, run_ranks, share_of
from touchneedle.benchmark.records import read_records
from touchneedle.benchmark.run import run_experiment
from touchneedle.benchmark.share import Share
from touchneedle.benchmark.store import load_weights
from touchneedle.conf.errors import InputError
from touchneedle.conf.registry import ESTIMATOR_TABLE
from touchneedle.estimators.base import Estimator
from touchneedle.toys.base import ToySpec

ROOT = Path(__file__).parents[2]
Weights = dict[str, Tensor]
Shell = Callable[..., subprocess.CompletedProcess[str]]
Build = Callable[[ToySpec], Estimator]


# Shares.


@given(st.integers(1, 40), st.integers(1, 9))
def test_shares_are_disjoint_and_average_to_the_batch(n: int, ranks: int) -> None:
    generator = torch.Generator().manual_seed(n)
    batch = torch.randperm(100, generator=generator)[:n]
    losses = torch.randn(100, generator=generator, dtype=torch.float64)
    shares = [Share(rank, ranks).of(batch) for rank in range(ranks)]
    assert all(len(rows) for rows, _ in shares)
    assert sorted(torch.cat([rows for rows, factor in shares if factor]).tolist()) == sorted(batch.tolist())
    mean_over_ranks = sum(factor * losses[rows].mean() for rows, factor in shares) / ranks
    torch.testing.assert_close(mean_over_ranks, losses[batch].mean())


def test_one_process_has_all_and_changes_nothing() -> None:
    batch = torch.arange(7)
    rows, factor = Share().of(batch)
    assert torch.equal(rows, batch)
    assert factor == 1.0
    assert Share().seed(3) == 3
    sums = torch.tensor([1.0, 2.0])
    assert Share().total(sums, torch.device("cpu")) is sums


def test_every_rank_draws_its_own() -> None:
    seeds = [Share(rank, 4).seed(3) for rank in range(4)]
    assert seeds[0] == 3
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(("devices", "peak"), [(1, 3.0), (2, 5.0)])
def test_the_largest_process_is_the_peak(monkeypatch: pytest.MonkeyPatch, devices: int, peak: float) -> None:
    used = {resource.RUSAGE_SELF: 3 * 1024, resource.RUSAGE_CHILDREN: 5 * 1024}
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=used[who]))
    assert peak_memory_mb(TrainerConfig(devices=devices)) == peak


# What cannot be shared.


def cell(results: Path, **changes: object) -> ExperimentConfig:
    values = {"estimator": ComponentConfig("spline_flow"), "trainer": trainer_of(RANKS)} | changes
    return ExperimentConfig(ComponentConfig("gaussian_shift"), results=str(results), **values)  # type: ignore[arg-type]


def test_the_number_of_devices_is_part_of_a_fit_and_one_is_none(tmp_path: Path) -> None:
    fits = [identify(cell(tmp_path, trainer=TrainerConfig(devices=devices)))[0] for devices in (1, 2, 3)]
    assert len(set(fits)) == 3
    assert identify(cell(tmp_path, trainer=TrainerConfig(nodes=2)))[0] not in fits


def test_stacked_members_are_refused(tmp_path: Path) -> None:
    config = cell(tmp_path, ensemble=EnsembleConfig(members=2, stacked="yes"))
    with pytest.raises(InputError, match=r"ensemble\.stacked=yes: expected a training by one process; got 2") as caught:
        check_config(config)
    assert "\n" not in str(caught.value)
    check_ranks(cell(tmp_path, ensemble=EnsembleConfig(members=2, stacked="auto")))


def test_streamed_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.memory_limit: expected a training by one process; got 2"):
        check_config(cell(tmp_path, data=DataConfig(memory_limit=10**9)))


def test_a_process_of_another_job_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert share_of(TrainerConfig()) == Share()
    assert share_of(TrainerConfig(devices=2)) is None
    assert share_of(TrainerConfig(devices=2, nodes=2)) == Share(3, 4)


def test_a_training_outside_of_its_ranks_is_refused() -> None:
    with pytest.raises(InputError, match=r"trainer\.devices: expected one of 2 processes; run_experiment starts them"):
        train_double(spline_flow, RANKS)


def test_several_machines_are_told_how_to_start(tmp_path: Path) -> None:
    record = run_experiment(cell(tmp_path, trainer=TrainerConfig(devices=2, nodes=3, accelerator="cpu")))
    assert record is not None
    assert record.status == "failed"
    assert "start, on each, torchrun --nnodes=3 --nproc-per-node=2 " in record.reason
    assert "-m touchneedle.benchmark.ranks KEY=VALUE..." in record.reason
    assert "\n" not in record.reason


# Two processes.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InputError]:
    """Folder of what two ranks have trained, and how that ended."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.raises(InputError) as caught:
        run_ranks(train_shared, (folder,), trainer_of(RANKS))
    return folder, caught.value


def kept(folder: Path, name: str) -> tuple[Weights, dict[str, list[float]]]:
    weights = load_weights(folder, name)
    assert weights is not None
    return weights, json.loads((folder / "fits" / name / "training.json").read_text())


@pytest.mark.parametrize(("build", "alone"), [(spline_flow, spline_flow), (ratio_bce, ratio_of_shares)])
def test_two_ranks_train_as_one_process(shared: tuple[Path, InputError], build: Build, alone: Build) -> None:
    estimator, log = train_double(alone, devices=1)
    assert "no better validation loss" in log.stopped
    assert 3 < len(log.train_loss) < 40
    for rank in range(RANKS):
        weights, found = kept(shared[0], f"{build.__name__}-{rank}")
        assert found["stopped"] == log.stopped
        assert found["train_loss"] == pytest.approx(log.train_loss, rel=1e-9)
        assert found["validation_loss"] == pytest.approx(log.validation_loss, rel=1e-9)
        torch.testing.assert_close(weights, dict(estimator.state_dict()), rtol=1e-7, atol=1e-9)


def test_a_ratio_differs_from_one_process_by_its_draws(shared: tuple[Path, InputError]) -> None:
    """Other partners: other losses, as good an end."""
    log = train_double(ratio_bce, devices=1)[1]
    found = kept(shared[0], "ratio_bce-0")[1]
    assert found["train_loss"][0] != log.train_loss[0]
    assert min(found["validation_loss"]) == pytest.approx(min(log.validation_loss), rel=0.05)


def test_a_rank_that_fails_ends_all_with_its_line(shared: tuple[Path, InputError]) -> None:
    assert str(shared[1]) == "the second rank cannot go on"


TRAINED = [name for name in sorted(ESTIMATOR_TABLE) if name not in ("best_gaussian", "oracle", "oracle_narrow", "oracle_shifted")]


@pytest.mark.slow
def test_every_estimator_has_the_same_weights_in_all_ranks(tmp_path: Path) -> None:
    """Two gradients in one loss, stages, parameters that a share does not use: all take every step together."""
    run_ranks(train_every, (tmp_path, TRAINED), trainer_of(RANKS))
    for name in TRAINED:
        (first, log), (second, other) = (kept(tmp_path, f"{name}-{rank}") for rank in range(RANKS))
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
        assert log["validation_loss"] == other["validation_loss"]


# Whole commands, in processes that import everything.

WORDS = ("toy=gaussian_shift", "estimator=ratio_bce", "budget.n_train=600", "trainer.max_epochs=3", "trainer.accelerator=cpu")
QUICK = ("evaluation.families=[density]", "evaluation.n_test=300", "evaluation.n_sample=20")


@pytest.mark.slow
def test_the_command_shares_a_training(shell: Shell, tmp_path: Path) -> None:
    result = shell("run", *WORDS, *QUICK, "trainer.devices=2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    (record,) = read_records(tmp_path / "results/local")
    assert record.status == "ok"
    assert record.cost["epochs"] == 3
    (tracked,) = (tmp_path / "results/local/tracking").glob("*/metrics.csv")
    assert len(tracked.read_text().splitlines()) == 4
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_one_line(shell: Shell, tmp_path: Path) -> None:
    result = shell("run", *WORDS, *QUICK, "trainer.devices=2", "optimizer.learning_rate=1e30")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "stage train: the loss became " in line
    (record,) = read_records(tmp_path / "results/local")
    assert record.status == "failed"
    assert record.reason.startswith("stage train: the loss became ")


# Once, the second rank kills itself, or the process that has started it.
MORTAL = """
import os, pathlib, signal
from touchneedle.estimators.base import register_estimator
from touchneedle.estimators.ratio_bce import RatioBce

FOLDER = pathlib.Path(__file__).parent

@register_estimator("mortal")
class Mortal(RatioBce):
    def _loss(self, events, generator):
        if os.environ["RANK"] == "1" and not (FOLDER / "died").exists():
            (FOLDER / "died").touch()
            os.kill({victim}, signal.SIGKILL)
        return super()._loss(events, generator)
"""


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_the_repeat_completes(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL.format(victim="os.getpid()"))
    command = ("run", *WORDS, *QUICK, "trainer.devices=2", "estimator=mortal", "--plugin", "mortal.py")
    result = shell(*command)
    assert result.returncode == 1, result.stdout
    (line,) = result.stderr.splitlines()
    assert "a process of the training was killed, by want of memory perhaps; repeat the command to go on" in line
    assert shell(*command).returncode == 0
    assert [record.status for record in read_records(tmp_path / "results/local")] == ["ok"]


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL.format(victim="os.getppid()"))
    command = ("run", *WORDS, *QUICK, "trainer.devices=2", "trainer.max_epochs=100000", "estimator=mortal", "--plugin", "mortal.py")
    assert shell(*command).returncode == -signal.SIGKILL
    # `shell` has returned, so the last process that could write its output has ended, long before its hundred thousand epochs.
    assert not list((tmp_path / "results/local").glob("fits/*/*"))


@pytest.mark.slow
def test_ranks_of_torchrun_train_what_the_command_then_scores(shell: Shell, tmp_path: Path) -> None:
    """Two agents of one rank each on this machine stand for two machines."""
    words = (*WORDS, *QUICK, "trainer.nodes=2")
    launch = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=touchneedle")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".typing"), "OMP_NUM_THREADS": "1"}
    # The store of the rendezvous is the only thing on this port; nobody else asks for a port between here and there.
    from torch.distributed.elastic.utils.distributed import get_free_port

    address = f"--rdzv-endpoint=127.0.0.1:{get_free_port()}"
    program = [sys.executable, "-m", "torch.distributed.run", *launch, address, "-m", "touchneedle.benchmark.ranks", *words]
    agents = [subprocess.Popen(program, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for agent in agents:
        told = agent.communicate(timeout=300)[1]
        assert agent.returncode == 0, told
    (weights,) = (tmp_path / "results/local/fits").glob("*/weights.safetensors")
    written = weights.stat().st_mtime_ns
    result = shell("run", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    assert weights.stat().st_mtime_ns == written
