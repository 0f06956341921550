"""Save and load in a fresh process: one subprocess reloads every saved estimator and compares its numbers.

``save_probe`` writes what a fresh process needs to rebuild one estimator (spec, options, weights) with
events and the numbers expected there; ``reload_check`` starts the process. Run as a module, this file
is that process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from touchneedle.benchmark.checks import CheckFailed, CheckResult, run_checks
from touchneedle.benchmark.config import ComponentConfig
from touchneedle.conf import registry
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.trained_range import extrapolation_allowed
from touchneedle.toys.base import Events, ToySpec, build_toy

_TIMEOUT_SECONDS = 120


def save_probe(folder: Path, estimator: Estimator, component: ComponentConfig, probe: Events, toy: ComponentConfig | None = None) -> None:
    """Write the estimator called ``component.name`` and its log_ratio of ``probe`` under ``folder``.

    Args:
        folder: where one folder per estimator is made.
        estimator: the estimator, prepared and trained.
        component: registry name and options that built it.
        probe: events and points at which the fresh process must give the same numbers.
        toy: name and options of its toy; needed by controls only.
    """
    place = folder / component.name
    place.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in estimator.state_dict().items()}
    save_file(tensors, place / "weights.safetensors")
    with extrapolation_allowed():
        expected = estimator.eval().log_ratio(probe.x, probe.theta).detach()
    save_file({"x": probe.x, "theta": probe.theta, "log_ratio": expected}, place / "probe.safetensors")
    manifest = {
        "estimator": dataclasses.asdict(component),
        "spec": TypeAdapter(ToySpec).dump_python(estimator.spec),
        "toy": None if toy is None else dataclasses.asdict(toy),
    }
    (place / "manifest.json").write_text(json.dumps(manifest))


def reload_check(folder: Path, plugins: Sequence[str] = ()) -> list[CheckResult]:
    """Reload all estimators that `save_probe` wrote under ``folder`` in one fresh process; one result each."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "touchneedle.benchmark.reload", str(folder), *plugins]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_SECONDS, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return [CheckResult("reload", False, f"the fresh process failed: {last[0]}", 0.0)]
    return [CheckResult(**result) for result in json.loads(done.stdout)]


def _check_place(place: Path) -> None:
    manifest: dict[str, Any] = json.loads((place / "manifest.json").read_text())
    spec = TypeAdapter(ToySpec).validate_python(manifest["spec"])
    toy = None if manifest["toy"] is None else build_toy(manifest["toy"]["name"], **manifest["toy"]["params"])
    component = manifest["estimator"]
    estimator = build_estimator(component["name"], spec, truth=toy, **component["params"])
    estimator.load_tensors(load_file(place / "weights.safetensors"))
    probe = load_file(place / "probe.safetensors")
    answer = estimator.eval().log_ratio(probe["x"], probe["theta"]).detach()
    # Another process may group threads, and so roundings, differently.
    if not torch.allclose(answer, probe["log_ratio"], rtol=1e-5, atol=1e-5):
        difference = (answer - probe["log_ratio"]).abs().max()
        raise CheckFailed(f"fresh process: log_ratio of {component['name']} changed by {difference:.3g}")


def _main(folder: str, *plugins: str) -> None:
    for plugin in plugins:
        registry.load_plugin_file(plugin)
    results = [
        dataclasses.replace(result, name=f"reload {place.name}")
        for place in sorted(Path(folder).iterdir())
        for result in run_checks({"reload": _check_place}, place)
    ]
    print(json.dumps([dataclasses.asdict(result) for result in results]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
