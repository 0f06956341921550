"""log_ratio of events on a grid of points at once: what does not depend on theta is computed once."""

from typing import Any

import pytest
import torch

from tests.performance.ratios import Speed, note_speed, ratio, side_by_side
from touchneedle.benchmark.data import make_events
from touchneedle.estimators.base import build_estimator
from touchneedle.toys.base import build_toy


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["zuko_nsf", "spline_flow", "ratio_bce", "posterior_flow"])
def test_grid_against_repeated_log_ratio(benchmark: Any, name: str) -> None:
    """log_ratio of 1,000 events at 50 points at once, over the same in 50 calls."""
    toy: Any = build_toy("mass_bump")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        estimator = build_estimator(name, toy.spec)
    estimator.prepare(make_events(toy, 4_096, "prior", 0))
    estimator.double().eval()
    generator = torch.Generator().manual_seed(0)
    theta = toy.spec.parameters.sample_prior(50, generator).clamp(toy.spec.parameters.low, toy.spec.parameters.high)
    x = toy.sample(toy.spec.parameters.nominal.expand(1_000, -1), generator=generator).x

    def repeated() -> torch.Tensor:
        return torch.stack([estimator.log_ratio(x, point) for point in theta], 1)

    with torch.no_grad():
        grid = benchmark.pedantic(lambda: estimator.log_ratio_grid(x, theta), rounds=3)
        assert torch.allclose(grid, repeated(), atol=1e-6)
        times = side_by_side({"repeated": repeated, "grid": lambda: estimator.log_ratio_grid(x, theta)}, rounds=5)
    value, error = ratio(times["repeated"], times["grid"])
    note_speed(benchmark, Speed("grid of log_ratio", f"{name}, 50 points, float64", value, error, against="50 calls of log_ratio"))
