"""Doctor: what is installed, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from touchneedle.benchmark.cells import check_results
from touchneedle.conf import registry
from touchneedle.conf.errors import InputError

ESSENTIAL = ("torch", "numpy", "scipy", "iminuit", "safetensors", "pyarrow", "pydantic", "typer", "rich", "filelock")
EXTRAS = {
    "bench": (
        "lightning",
        "hydra-core",
        "hydra-joblib-launcher",
        "zuko",
        "nflows",
        "normflows",
        "pandas",
        "scikit-learn",
        "POT",
        "jinja2",
        "matplotlib",
        "seaborn",
    ),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hep": ("awkward", "dask", "distributed", "fastjet", "pythia8mc", "uproot"),
    "slurm": ("hydra-submitit-launcher",),
    "ray": ("hydra-ray-launcher",),
    "search": ("optuna",),
    "tracking": ("mlflow-skinny", "tensorboard"),
}
MINIMUM_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``wrong`` means that Touchneedle cannot work."""

    topic: str
    state: Literal["ok", "missing", "wrong"]
    detail: str


def examine(results: str) -> list[Finding]:
    """Everything that the doctor looks at, in order."""
    return [_python(), _own_version(), *_essential(), *_extras(), _device(), *_plugins(), _results(results)]


def _python() -> Finding:
    enough = sys.version_info[:2] >= MINIMUM_PYTHON
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return Finding("python", "ok" if enough else "wrong", detail if enough else f"{detail}; 3.11 or newer is needed")


def _own_version() -> Finding:
    found = _version("touchneedle")
    return Finding("touchneedle", "ok" if found else "missing", found or "not installed as a package (running from a folder)")


def _essential() -> list[Finding]:
    findings = []
    for name in ESSENTIAL:
        found = _version(name)
        findings.append(Finding(name, "ok" if found else "wrong", found or f"missing: pip install {name}"))
    return findings


def _extras() -> list[Finding]:
    findings = []
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, found in versions.items() if not found]
        present = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
        advice = f"without {', '.join(missing)}: pip install 'touchneedle[{extra}]'"
        findings.append(Finding(f"extra {extra}", "missing" if missing else "ok", advice if missing else present))
    return findings


def _device() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("device", "wrong", f"torch does not import: {error}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("device", "ok", f"{torch.get_num_threads()} CPU threads for torch; GPU: {', '.join(gpus) or 'none'}")


def _plugins() -> list[Finding]:
    findings = []
    for components in (registry.toys, registry.estimators):
        try:
            entries, broken = components.entries(), components.broken()
        except InputError as error:
            findings.append(Finding(f"{components.kind} plugins", "wrong", str(error)))
            continue
        for name, entry in entries.items():
            if entry.distribution != registry.BUILT_IN:
                state: Literal["ok", "missing"] = "missing" if name in broken else "ok"
                findings.append(Finding(f"{components.kind} {name}", state, broken.get(name, f"from {entry.distribution}")))
    return findings or [Finding("plugins", "ok", "none installed")]


def _results(results: str) -> Finding:
    folder = Path(results).resolve()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        check_results(str(existing))
    except InputError as error:
        return Finding("results folder", "wrong", str(error))
    return Finding("results folder", "ok", f"{results} can be written")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
