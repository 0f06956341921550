"""Our splines beside zuko's, side by side in one run: a training step, a density, and its gradient in theta."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import pytest
import torch

from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.flow_density import SplineFlowConfig
from touchneedle.estimators.flow_families import FlowFamily, build_flow

FEATURES, CONTEXT, TRANSFORMS, BATCH, ROUNDS = 8, 3, 5, 1_024, 12
FAMILIES: tuple[FlowFamily, ...] = ("zuko_nsf", "spline_flow")
Task = Callable[[], object]


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


@pytest.mark.parametrize(("make", "faster"), [(train, 1.5), (density, 1.8), (score, 1.7)], ids=["training step", "density", "score"])
def test_splines_features_first_are_faster(benchmark: Any, make: Callable[..., Task], faster: float) -> None:
    with one_thread():
        torch.manual_seed(0)
        z, context = torch.randn(BATCH, FEATURES), torch.randn(BATCH, CONTEXT)
        tasks = [make(build_flow(family, FEATURES, CONTEXT, SplineFlowConfig(transforms=TRANSFORMS)), z, context) for family in FAMILIES]
        seconds: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for task, spent in zip(tasks, seconds, strict=True):
                start = time.process_time()
                task()
                spent.append(time.process_time() - start)
        ratio = median(seconds[0]) / median(seconds[1])
        benchmark.extra_info["times zuko"] = round(ratio, 2)
        benchmark.pedantic(tasks[1], rounds=3)
    assert ratio > faster
