"""Memory of an evaluation at a million test events: batches everywhere, so it stays below 2 GB."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import resource
import torch
from touchneedle.benchmark.config import EvaluationConfig
from touchneedle.benchmark.data import make_events
from touchneedle.benchmark.evaluate import evaluate
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy

torch.set_num_threads(1)
torch.manual_seed(0)
toy = build_toy("gaussian_mixture")
estimator = build_estimator("zuko_nsf", toy.spec, transforms=1, hidden_features=(32,))
estimator.prepare(make_events(toy, 10_000, "prior", 0))
config = EvaluationConfig(
    name="memory", n_experiments=50, n_points=1, n_test=1_000_000, n_sample=20_000, n_events=(1_000,), n_pool=200_000,
    n_exact=1, n_posterior=1_000, n_set=(1, 10),
)
evaluate(toy, estimator, config, 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_million_test_events_stay_below_two_gigabytes() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT / ".typing", check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1_024
    assert int(done.stdout.split()[-1]) * unit < 2e9
