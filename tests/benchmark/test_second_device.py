"""Methods on a device whose tensors are told from those of the CPU as a GPU's are: no GPU is needed; see ``second_device.py``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.trainable import TRAINED

ROOT = Path(__file__).parents[2]
STACKED = ["stacked posterior_flow", "stacked ratio_bce", "stacked spline_flow", "stacked zuko_nsf"]
# One process for some: registering the device changes a whole process, and starting one takes seconds.
SHARES = [TRAINED[::2] + STACKED[::2], TRAINED[1::2] + STACKED[1::2]]


def wrong_on_the_second_device(names: list[str]) -> dict[str, str]:
    """What methods do otherwise there than on the CPU."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / ".typing"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmark.second_device_runs", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["name"] for each in found] == names, done.stderr[-2_000:]
    return {each["name"]: each["wrong"] for each in found if each["wrong"]}


@pytest.mark.parametrize("names", SHARES, ids=["even", "odd"])
def test_methods_train_and_answer_on_the_second_device_as_on_the_cpu(names: list[str]) -> None:
    assert wrong_on_the_second_device(names) == {}


def test_planted_mistakes_are_noticed() -> None:
    wrong = wrong_on_the_second_device(["planted_factor", "planted_noise", "planted_answers"])
    assert "expected all tensors on simulated_gpu:0; got one of shape (512,) on the CPU" in wrong["planted_factor"]
    assert "expected a generator of simulated_gpu:0; got one of the CPU" in wrong["planted_noise"]
    assert "'log_ratio': device(type='simulated_gpu', index=0)" in wrong["planted_answers"]
