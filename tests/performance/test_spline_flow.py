"""Our splines beside zuko's, side by side in one run: a training step, a density, and its gradient in theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.performance.ratios import Speed, Task, note_speed, ratio, side_by_side
from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.flow_density import SplineFlowConfig
from touchneedle.estimators.flow_families import FlowFamily, build_flow

FEATURES, CONTEXT, TRANSFORMS, BATCH = 8, 3, 5, 1_024
FAMILIES: tuple[FlowFamily, ...] = ("zuko_nsf", "spline_flow")


def train(flow: ConditionalFlow, z: torch.Tensor, context: torch.Tensor) -> Task:
    optimiser = torch.optim.AdamW(flow.parameters())

    def step() -> None:
        optimiser.zero_grad()
        (-flow.log_prob(z, context).mean()).backward()
        optimiser.step()

    return step


def density(flow: ConditionalFlow, z: torch.Tensor, context: torch.Tensor) -> Task:
    return torch.no_grad()(lambda: flow.log_prob(z, context))


def score(flow: ConditionalFlow, z: torch.Tensor, context: torch.Tensor) -> Task:
    flow.requires_grad_(requires_grad=False)
    moving = context.clone().requires_grad_()
    return lambda: torch.autograd.grad(flow.log_prob(z, moving).sum(), moving)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("make", "faster"), [(train, 1.5), (density, 1.8), (score, 1.7)], ids=["training step", "density", "score"])
def test_splines_features_first_are_faster(
    benchmark: Any, request: pytest.FixtureRequest, make: Callable[..., Task], faster: float
) -> None:
    torch.manual_seed(0)
    z, context = torch.randn(BATCH, FEATURES), torch.randn(BATCH, CONTEXT)
    flows = {family: build_flow(family, FEATURES, CONTEXT, SplineFlowConfig(transforms=TRANSFORMS)) for family in FAMILIES}
    tasks = {family: make(flow, z, context) for family, flow in flows.items()}
    seconds = side_by_side(tasks)
    value, error = ratio(seconds["zuko_nsf"], seconds["spline_flow"])
    topic = request.node.callspec.id
    note_speed(benchmark, Speed(topic, "spline_flow, eager, float32", value, error, against="zuko_nsf"))
    benchmark.pedantic(tasks["spline_flow"], rounds=3)
    assert value > faster
