"""Events per second of a density without gradient: our splines beside those of zuko, nflows and normflows, in both precisions.

Each flow takes the events in as many rows at a time as an estimator would, which is also the best size for the libraries.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.performance.profiles import needed_note
from tests.performance.ratios import Speed, note_speed, ratio, side_by_side
from touchneedle.estimators.base import ROWS_IN_CACHE
from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.flow_density import SplineFlowConfig
from touchneedle.estimators.flow_families import FlowFamily, build_flow

FEATURES, CONTEXT, TRANSFORMS, EVENTS = 8, 3, 5, 8_192
WANTED = 3.0
LIBRARIES: tuple[FlowFamily, ...] = ("zuko_nsf", "nflows_nsf", "normflows_nsf")


def density(flow: ConditionalFlow, z: Tensor, context: Tensor, rows: int) -> Callable[[], list[Tensor]]:
    pairs = list(zip(z.split(rows), context.split(rows), strict=True))
    return torch.no_grad()(lambda: [flow.log_prob(*pair) for pair in pairs])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("dtype", "rows"), [(torch.float32, ROWS_IN_CACHE), (torch.float64, ROWS_IN_CACHE // 2)], ids=["float32", "float64"]
)
def test_density_beside_the_fastest_library(benchmark: Any, dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    z, context = torch.randn(EVENTS, FEATURES, dtype=dtype), torch.randn(EVENTS, CONTEXT, dtype=dtype)
    config = SplineFlowConfig(transforms=TRANSFORMS)
    flows = {family: build_flow(family, FEATURES, CONTEXT, config).to(dtype) for family in (*LIBRARIES, "spline_flow")}
    tasks = {family: density(flow, z, context, rows) for family, flow in flows.items()}
    seconds = side_by_side(tasks)
    fastest = min(LIBRARIES, key=lambda family: statistics.median(seconds[family]))
    value, error = ratio(seconds[fastest], seconds["spline_flow"])
    note = needed_note(tasks["spline_flow"], value) if value < WANTED else ""
    what = f"spline_flow, eager, {str(dtype).removeprefix('torch.')}"
    note_speed(benchmark, Speed("density", what, value, error, against=f"fastest library ({fastest})", wanted=WANTED, note=note))
    benchmark.pedantic(tasks["spline_flow"], rounds=3)
    assert value > 1.5
