"""Experiment tracking: losses epoch by epoch, as they come, in a table or by Lightning's loggers; the records stay the source of truth.

Trackers write beside the records, ``<results>/tracking``; mlflow to the server that ``MLFLOW_TRACKING_URI`` names, if it is set.
Losses are called ``STAGE/train`` and ``STAGE/validation``; an epoch counts from 0 over all stages. A tracker that fails costs no
training: a warning says so, once, and it is told nothing more.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from touchneedle.benchmark.config import TrackingConfig
from touchneedle.benchmark.csv_follower import CsvFollower
from touchneedle.benchmark.training_plan import Follower
from touchneedle.conf.errors import InputError

FOLDER = "tracking"
_NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


class TrackingStopped(UserWarning):
    """A tracker failed: its server does not answer, its disk is full. The record has all losses nevertheless."""


class _Careful:
    """A follower of losses whose failure is its own."""

    def __init__(self, tracker: str, follower: Follower) -> None:
        self._tracker, self._follower = tracker, follower
        self._failed = False

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self._tell(lambda: self._follower.log_metrics(metrics, step))

    def save(self) -> None:
        self._tell(self._follower.save)

    def finalize(self, status: str) -> None:
        self._tell(lambda: self._follower.finalize(status))

    def _tell(self, what: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            what()
        except Exception as error:
            # Trackers raise errors of their own, of HTTP, of databases.
            self._failed = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"tracking={self._tracker} stopped, the training goes on: {reason}", TrackingStopped, stacklevel=3)


@contextmanager
def follow(config: TrackingConfig, results: Path, fit_id: str) -> Iterator[Follower | None]:
    """The logger of a training, or None; it is told how the training ended. `InputError` if its package is not installed."""
    built = _build(config, results, fit_id)
    logger = None if built is None else _Careful(config.name, built)
    try:
        yield logger
    except BaseException:
        if logger is not None:
            logger.finalize("failed")
        raise
    if logger is not None:
        logger.finalize("success")


def _build(config: TrackingConfig, results: Path, fit_id: str) -> Follower | None:
    if config.name == "none":
        return None
    package = _NEEDS.get(config.name)
    if package and find_spec(package) is None:
        raise InputError(f"tracking={config.name}: expected the package {package}; it is not installed (pip install touchneedle[tracking])")
    folder = results / FOLDER
    if config.name == "csv":
        return CsvFollower(folder / fit_id / "metrics.csv")
    # Its import takes seconds: only for the trackers that need it.
    from lightning.pytorch import loggers

    if config.name == "tensorboard":
        return loggers.TensorBoardLogger(str(folder / "tensorboard"), name=fit_id, version="")
    # Files need no database and bear many writers; MLflow asks to be told that it may use them.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    # A server that does not answer is given up in seconds; by default MLflow tries for minutes, while the training waits.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").absolute().as_uri()
    return loggers.MLFlowLogger("touchneedle", run_name=fit_id, tracking_uri=uri)
