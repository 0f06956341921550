"""Training steps on equal terms: methods of ours as the training loop runs them, and the libraries as their own users do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.performance.ratios import Task
from touchneedle.benchmark.joined_weights import JoinedWeights
from touchneedle.benchmark.members import OneMember
from touchneedle.estimators.base import Estimator, build_estimator
from touchneedle.estimators.flow_density import SplineFlowConfig
from touchneedle.estimators.flow_families import FlowFamily, build_flow
from touchneedle.toys.base import Events, Feature, Normal, Parameter, ParameterSpace, ToySpec

FEATURES, PARAMETERS, TRANSFORMS, BATCH, CLIP = 8, 3, 5, 1_024, 5.0
LIBRARIES: dict[str, tuple[FlowFamily, ...]] = {
    "spline_flow": ("zuko_nsf", "nflows_nsf", "normflows_nsf"),
    "affine_flow": ("zuko_maf", "nflows_maf"),
}
SPEC = ToySpec(
    name="normal",
    version="1",
    parameters=ParameterSpace(tuple(Parameter(f"theta_{k}", "interest", 0.0, (-9.0, 9.0), Normal(0.0, 1.0)) for k in range(PARAMETERS))),
    features=tuple(Feature(f"x_{k}") for k in range(FEATURES)),
    processes=("all",),
)


def batch(device: str = "cpu") -> Events:
    """Events whose mean depends on theta."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(BATCH, PARAMETERS, generator=generator, dtype=torch.float64)
    x = torch.randn(BATCH, FEATURES, generator=generator) + theta.float() @ torch.linspace(-1, 1, PARAMETERS * FEATURES).reshape(
        PARAMETERS, FEATURES
    )
    return Events(x, theta, torch.ones(BATCH, dtype=torch.float64)).to(device)


def estimator_step(name: str, *, compile: bool, device: str = "cpu") -> Task:
    """A step of one of our methods: loss, gradient, clipping and the optimiser as the training loop has them."""
    events, generator = batch(device), torch.Generator().manual_seed(1)
    estimator = _built(name, events).to(device)
    (stage,) = estimator.stages()
    trainee = OneMember(estimator, stage, compile=compile)
    optimiser = torch.optim.AdamW(trainee.trained(), fused=compile)
    weights = JoinedWeights(optimiser)

    def loss() -> Tensor:
        return trainee.losses(events, torch.arange(BATCH), generator).mean(1).sum()

    def step() -> None:
        weights.zero_grad()
        loss().backward()
        trainee.clip_gradients(CLIP)
        weights.take_gradients()
        optimiser.step()

    return step


def library_step(family: FlowFamily, device: str = "cpu") -> Task:
    """A step of a flow of a library, on float32 columns that are standardised already."""
    events = batch(device)
    flow = build_flow(family, FEATURES, PARAMETERS, SplineFlowConfig(transforms=TRANSFORMS)).to(device)
    z, context = events.x, events.theta.float()
    optimiser = torch.optim.AdamW(flow.parameters())
    return _step(lambda: -flow.log_prob(z, context).mean(), optimiser, lambda: nn.utils.clip_grad_norm_(flow.parameters(), CLIP))


def plain_ratio_step(device: str = "cpu") -> Task:
    """The step of a classifier of pairs as one writes it by hand: one network, one pass over both classes."""
    events = batch(device)
    layers = [nn.Linear(FEATURES + PARAMETERS, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()]
    network = nn.Sequential(*layers, nn.Linear(128, 1)).to(device)
    x, theta = events.x, events.theta.float()
    label = torch.cat([torch.ones(BATCH), torch.zeros(BATCH)]).to(device)
    optimiser = torch.optim.AdamW(network.parameters())

    def loss() -> Tensor:
        pairs = torch.cat([torch.cat([x, x]), torch.cat([theta, theta[torch.randperm(BATCH, device=device)]])], 1)
        return nn.functional.binary_cross_entropy_with_logits(network(pairs)[:, 0], label)

    return _step(loss, optimiser, lambda: nn.utils.clip_grad_norm_(network.parameters(), CLIP))


def _step(loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer, clip: Callable[[], Any]) -> Task:
    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        clip()
        optimiser.step()

    return step


def _built(name: str, events: Events) -> Estimator:
    torch.manual_seed(0)
    estimator = build_estimator(name, SPEC, **({"transforms": TRANSFORMS} if name in LIBRARIES else {}))
    estimator.prepare(events)
    return estimator
