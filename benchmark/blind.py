"""A toy with its density taken away: what a simulator is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from touchneedle.toys.base import Events, ExactToy, SimulatedToy


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
