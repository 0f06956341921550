"""Memory kept between steps: the pages that steps of a stacked training touch anew, in a process of its own."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import resource
import torch
from touchneedle.benchmark.allocator import keep_freed_memory
from touchneedle.benchmark.members import StackedMembers
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import Events, build_toy

torch.set_num_threads(1)
spec = build_toy("gaussian_shift").spec
members = [build_estimator("ratio_bce", spec, hidden=(128, 128)) for _ in range(8)]
trainee = StackedMembers(members, [member.stages()[0] for member in members], None)
events = Events(torch.randn(512, spec.x_dim), torch.zeros(512, spec.theta_dim), torch.ones(512))

def touched() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        trainee.losses(events, None, torch.Generator()).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touched()
print(touched())
keep_freed_memory()
# What is kept grows for a few steps more.
for _ in range(3):
    touched()
print(touched())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_step_uses_the_memory_of_the_last_one() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT / ".typing", check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    before, after = map(int, done.stdout.split())
    assert after < 0.1 * before
