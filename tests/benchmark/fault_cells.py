"""Cells of `test_faults`, run in processes of their own that kill themselves, find no room for files, or are another host."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import resource
import signal
import socket
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from touchneedle.benchmark.config import BudgetConfig, ComponentConfig, EvaluationConfig, ExperimentConfig, TrackingConfig, TrainerConfig
from touchneedle.benchmark.run import run_experiment
from touchneedle.conf.errors import InputError
from touchneedle.estimators.best_gaussian import BestGaussian

Fault = Callable[[], None]
CLONE_NEWUTS = 0x04000000


def cell(results: Path, seed: int = 0) -> ExperimentConfig:
    """The smallest cell: a closed form and one metric family."""
    return ExperimentConfig(
        ComponentConfig("gaussian_shift"),
        ComponentConfig("best_gaussian"),
        budget=BudgetConfig("test", 200),
        evaluation=EvaluationConfig("test", n_test=100, families=("closure",)),
        trainer=TrainerConfig(progress=False, accelerator="cpu"),
        tracking=TrackingConfig("none"),
        seed=seed,
        results=str(results),
    )


def counting(prepare: Callable[..., None], folder: Path) -> Callable[..., None]:
    """A training that leaves a file in the folder."""

    def counted(self: BestGaussian, source: Any) -> None:
        (folder / f"trained.{socket.gethostname()}.{uuid.uuid4().hex}").touch()
        prepare(self, source)

    return counted


def run_cells(folder: Path, seeds: Sequence[int], faults: Sequence[Fault], told: Connection) -> None:
    """Run cells one after the other, after the faults have been arranged; what became of them is told as (status, reason)."""
    BestGaussian._prepare = counting(BestGaussian._prepare, folder)  # type: ignore[method-assign]
    for fault in faults:
        fault()
    told.send([_outcome(cell(folder / "results", seed)) for seed in seeds])


def _outcome(config: ExperimentConfig) -> tuple[str, str]:
    try:
        record = run_experiment(config)
    except InputError as error:
        return "raised", str(error)
    assert record is not None
    return record.status, record.reason


# Faults, for `functools.partial`.


def die_at(moment: int) -> None:
    """SIGKILL when, for the ``moment``-th time (from 0), something is brought to disk or renamed."""
    calls = itertools.count()

    def mortal(function: Callable[..., None]) -> Callable[..., None]:
        def call(*words: Any) -> None:
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*words)

        return call

    os.fsync, os.replace = mortal(os.fsync), mortal(os.replace)


def allow_files_of(size: int) -> None:
    """The kernel refuses to let any file grow beyond that many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def be_host(name: str) -> None:
    """Another host name: the kernel's, for this process alone, where that is permitted; else that of Python."""
    if ctypes.CDLL(None).unshare(CLONE_NEWUTS) == 0:
        socket.sethostname(name)
    else:
        socket.gethostname = platform.node = lambda: name  # type: ignore[assignment]
