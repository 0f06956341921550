"""Toys with their density taken away: what a simulator is, and what a file of events is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, FiniteToy, SimulatedToy, Split, expand_theta


class BlindToy(SimulatedToy):
    """The same events and rates as an exact toy, without ``log_prob``, joint ratios and joint scores.

    Scores of a blind toy are those that need no exact density, by construction.
    """

    def __init__(self, toy: ExactToy) -> None:
        self.toy = toy
        self.spec = toy.spec
        self.fit_events = toy.fit_events
        # A class attribute of every other toy: here it follows the toy that is covered.
        object.__setattr__(self, "regular", toy.regular)

    def rates(self, theta: Tensor) -> Tensor:
        """Those of the toy."""
        return self.toy.rates(theta)

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Events:
        return replace(self.toy.sample(theta, generator=generator), joint_log_ratio=None, joint_score=None)


class FrozenSample(FiniteToy):
    """A fixed sample of an exact toy at nominal, half of it for training, reweighted by the exact ratio."""

    def __init__(self, toy: ExactToy, n: int = 20_000) -> None:
        self.toy = toy
        self.spec = toy.spec
        self.fit_events = toy.fit_events
        object.__setattr__(self, "regular", toy.regular)
        nominal = toy.spec.parameters.nominal.expand(n, -1)
        events = toy.sample(nominal, generator=torch.Generator().manual_seed(0))
        self._events = replace(events, joint_log_ratio=None, joint_score=None)

    def rates(self, theta: Tensor) -> Tensor:
        """Those of the toy."""
        return self.toy.rates(theta)

    def pool(self, split: Split) -> Events:
        """One half of the sample."""
        half = len(self._events) // 2
        return self._events[:half] if split == "train" else self._events[half:]

    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """The yield times the exact ratio, shared among the events."""
        theta = expand_theta(theta, len(events))
        return self.toy.expected_events(theta) / len(events) * self.toy.log_ratio(events.x, theta).exp()
