"""Peak of resident memory with a million events of ten features: a cell by the command itself, and answers alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.performance.ratios import Speed, note_speed

ROOT = Path(__file__).parents[2]
GIGABYTE, WANTED = 1e9, 2.0
# ru_maxrss is in kilobytes on Linux, in bytes on macOS.
UNIT = 1 if sys.platform == "darwin" else 1_024
# Fits share a pool of 50,000 events whatever the budget is; two metric families look at all test events.
CELL = (
    "toy=many_nuisances", "toy.nuisances=9", "budget.n_train=1000000", "trainer.max_epochs=1", "trainer.batch_size=4096",
    "trainer.accelerator=cpu", "trainer.threads=1", "trainer.progress=false", "tracking=none",
    "evaluation.n_test=1000000", "evaluation.families=[density]",
)  # fmt: skip
ANSWERS = """
import sys
import torch
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

torch.set_num_threads(1)
name, what, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
toy = build_toy("many_nuisances", nuisances=9)
estimator = build_estimator(name, toy.spec)
x, theta = torch.randn(n, 10), toy.spec.parameters.nominal.float()
with torch.no_grad():
    if what == "grid":
        answer = estimator.log_ratio_grid(x, theta + torch.linspace(-1, 1, 5)[:, None])
    else:
        answer = getattr(estimator, what)(x, theta + 0.5)
assert len(answer) == n
"""


# A process starts with the peak of the one that starts it: so a small one stands between this one and what is measured.
BETWEEN = """
import resource
import subprocess
import sys

done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=False)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def peak(*words: str) -> float:
    """Gigabytes of resident memory that a fresh Python with these arguments has had at most."""
    command = [sys.executable, "-c", BETWEEN, *words]
    done = subprocess.run(command, cwd=ROOT / ".typing", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return int(done.stdout) * UNIT / GIGABYTE


def test_memory_of_this_process_is_not_that_of_another() -> None:
    """Nor is that which it has taken."""
    held = torch.ones(2**27)
    del held
    assert 0.2 < peak("-c", "kept = bytearray(200_000_000)") < 0.3


@pytest.mark.parametrize("name", ["ratio_bce", "spline_flow"])
def test_a_cell_with_a_million_events(benchmark: Any, tmp_path: Path, name: str) -> None:
    words = ("-m", "touchneedle.benchmark.main", "run", *CELL, f"estimator={name}", f"results={tmp_path}")
    found = benchmark.pedantic(lambda: peak(*words), rounds=1)
    bare = peak("-c", "import touchneedle.benchmark.train")
    note_speed(
        benchmark,
        Speed("memory", f"{name}, training and 1e6 test events", found, None, wanted=WANTED, better="lower", unit="GB"),
        Speed("memory", "imports alone", bare, None, better="lower", unit="GB"),
    )
    assert found < 2 * WANTED


@pytest.mark.parametrize(
    ("name", "what"), [("ratio_bce", "log_ratio"), ("ratio_bce", "grid"), ("spline_flow", "log_prob"), ("spline_flow", "grid")]
)
def test_answers_for_a_million_events_come_in_chunks(benchmark: Any, name: str, what: str) -> None:
    """Beside events and answers, a million events need what ten thousand need, within 100 MB."""
    many = benchmark.pedantic(lambda: peak("-c", ANSWERS, name, what, "1000000"), rounds=1)
    more = many - peak("-c", ANSWERS, name, what, "10000")
    values = 10 * 4 + 8 * (10 * 2 + 5 * 2)
    note_speed(benchmark, Speed("memory", f"{name}, {what} of 1e6 events", many, None, wanted=WANTED, better="lower", unit="GB"))
    assert more < values * 1e6 / GIGABYTE + 0.1
