"""Experiment tracking: losses epoch by epoch, as they come, through Lightning's loggers; the records stay the source of truth.

Trackers write beside the records, ``<results>/tracking``; mlflow to the server that ``MLFLOW_TRACKING_URI`` names, if it is set.
Losses are called ``STAGE/train`` and ``STAGE/validation``; an epoch counts from 0 over all stages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from touchneedle.benchmark.config import TrackingConfig
from touchneedle.benchmark.training_plan import Follower
from touchneedle.conf.errors import InputError

FOLDER = "tracking"
_NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


@contextmanager
def follow(config: TrackingConfig, results: Path, fit_id: str) -> Iterator[Follower | None]:
    """The logger of a training, or None; it is told how the training ended. `InputError` if its package is not installed."""
    logger = _build(config, results, fit_id)
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
    # Lightning takes seconds to import: only where something trains.
    from lightning.pytorch import loggers

    folder = results / FOLDER
    if config.name == "tensorboard":
        return loggers.TensorBoardLogger(str(folder / "tensorboard"), name=fit_id, version="")
    if config.name == "mlflow":
        # Files need no database and bear many writers; MLflow asks to be told that it may use them.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").absolute().as_uri()
        return loggers.MLFlowLogger("touchneedle", run_name=fit_id, tracking_uri=uri)
    return loggers.CSVLogger(str(folder), name=fit_id, version="", flush_logs_every_n_steps=1)
