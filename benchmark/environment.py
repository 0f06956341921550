"""Where a run ran: versions, machine and devices, for its record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

import torch

from touchneedle.benchmark.config import ExperimentConfig, TrainerConfig
from touchneedle.conf.errors import InputError


def device_of(trainer: TrainerConfig) -> torch.device:
    """Where networks are trained and evaluated: on a GPU if there is one, unless the CPU is asked for.

    Raises `InputError` if a GPU is asked for and there is none.
    """
    if trainer.accelerator == "cpu":
        return torch.device("cpu")
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=gpu: expected a GPU that torch can use (CUDA); there is none; use auto or cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_environment(config: ExperimentConfig) -> dict[str, Any]:
    """Python, packages, processors and threads, JSON-ready."""
    packages = ("touchneedle", "torch", "numpy", "scipy", "lightning", "zuko", "nflows", "normflows", "iminuit")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": config.trainer.threads or torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
