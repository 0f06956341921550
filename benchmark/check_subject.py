"""The subject of the estimator checks: one estimator, briefly trained on events of one toy."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from touchneedle.benchmark.data import make_events
from touchneedle.estimators.base import Design, Estimator, build_estimator
from touchneedle.toys.base import Events, SimulatedToy, Toy

N_TRAIN = 512
N_PROBE = 24
BATCH_SIZE = 128
STEPS = 10
# Probes stay within this many prior sigmas, away from edges where finite differences fail.
PROBE_RANGE = 1.5


@dataclass(eq=False)
class Subject:
    """An estimator by name, with its options, on a toy; what is trained is trained once.

    Attributes:
        params: options of the estimator.
    """

    name: str
    toy: SimulatedToy
    params: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> Estimator:
        """A fresh estimator whose initial weights follow ``seed``; the global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_estimator(self.name, self.toy.spec, truth=self.truth, **self.params)

    def prepared(self) -> Estimator:
        """A fresh estimator that has seen the training events."""
        estimator = self.build()
        estimator.prepare(self.events)
        return estimator

    @cached_property
    def trained(self) -> Estimator:
        """The estimator after a few steps, in float32."""
        return train_briefly(self.prepared(), self.events).eval()

    @cached_property
    def exact(self) -> Estimator:
        """The same in float64."""
        return copy.deepcopy(self.trained).double()

    @cached_property
    def truth(self) -> Toy:
        """The toy; `build_estimator` passes it to controls only."""
        return self.toy

    @cached_property
    def events(self) -> Events:
        """Training events with uneven weights, in a design that the estimator can use."""
        generator = torch.Generator().manual_seed(10)
        design = self._design()
        if design in ("pairs", "nominal"):
            weight = 0.5 + torch.rand(N_TRAIN, generator=generator)
            return make_events(self.toy, N_TRAIN, design, seed=10).with_weight(weight)
        theta = design_points(self.toy, design, N_TRAIN, generator)
        weight = 0.5 + torch.rand(N_TRAIN, generator=generator)
        return self.toy.sample(theta, generator=generator).with_weight(weight)

    @cached_property
    def probe(self) -> Events:
        """Events at scattered theta, each drawn at its own theta."""
        generator = torch.Generator().manual_seed(11)
        space = self.toy.spec.parameters
        u = PROBE_RANGE * (2 * torch.rand(N_PROBE, len(space), generator=generator, dtype=torch.float64) - 1)
        return self.toy.sample(space.from_normal(u), generator=generator)

    def near_nominal(self, sigmas: float) -> Tensor:
        """A point (p,) that lies ``sigmas`` prior sigmas from nominal in every parameter."""
        space = self.toy.spec.parameters
        return space.from_normal(space.to_normal(space.nominal) + sigmas)

    def answer(self, estimator: Estimator) -> None:
        """Ask the estimator for everything that it can do."""
        x, theta, generator = self.probe.x, self.probe.theta, torch.Generator().manual_seed(12)
        estimator.log_ratio(x, theta)
        estimator.log_normalisation(theta)
        if "sample" in estimator.capabilities:
            estimator.sample(theta, generator)
        if "posterior_sample" in estimator.capabilities:
            estimator.posterior_sample(x[:, None], 2, generator)

    def _design(self) -> Design:
        designs = self.build().designs
        wanted: Design = "templates" if self.toy.spec.parameters.nuisance else "prior"
        return next(design for design in (wanted, "prior", *sorted(designs)) if design in designs)


def train_briefly(estimator: Estimator, events: Events, steps: int = STEPS) -> Estimator:
    """A plain training loop of a few steps per stage; returns the estimator."""
    generator = torch.Generator().manual_seed(13)
    for stage in estimator.stages():
        chosen = events if stage.event_filter is None else events[stage.event_filter(events)]
        optimiser = torch.optim.Adam(stage.parameters, lr=1e-3)
        for _ in range(steps):
            batch = next(chosen.batches(BATCH_SIZE, generator))
            optimiser.zero_grad()
            estimator.loss(batch, generator).mean().backward()
            optimiser.step()
    estimator.finish(events)
    return estimator


def design_points(toy: Toy, design: Design, n: int, generator: torch.Generator) -> Tensor:
    """theta (n, p) from the prior; for ``templates`` each nuisance at nominal or one of them at an anchor."""
    space = toy.spec.parameters
    theta = space.sample_prior(n, generator).clamp(space.low, space.high)
    if design == "prior":
        return theta
    places = [(column, anchor) for column in space.nuisance for anchor in space.parameters[column].template_anchors]
    template = torch.randint(1 + len(places), (n,), generator=generator)
    theta[:, list(space.nuisance)] = space.nominal[list(space.nuisance)]
    for index, (column, anchor) in enumerate(places):
        theta[template == index + 1, column] = anchor
    return theta
