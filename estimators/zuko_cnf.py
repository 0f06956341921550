"""Continuous normalizing flow p(x|theta): a vector field by zuko, in equal steps and with the exact divergence.

Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366; Grathwohl et al. 2018, arXiv:1810.01367. Smooth in x
and theta. Slow: a density costs ``4 steps`` evaluations of the field and of its derivative along each feature; the
quick evaluation of ``gaussian_shift`` was not done after four minutes of one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt

from touchneedle.conf.errors import InputError
from touchneedle.estimators.continuous_flow import ContinuousFlow
from touchneedle.estimators.flow_density import ConditionalDensity
from touchneedle.estimators.flow_ode import STAGES
from touchneedle.toys.base import Events

_DOUBLINGS = 3
_PROBE = 2_000


@dataclass
class ZukoCnfConfig:
    """Options of `ZukoCnf`.

    Attributes:
        hidden_features: widths of the hidden layers of the field (SiLU).
        steps: Runge-Kutta steps in training; doubled after it until the density is accurate.
        tolerance: largest mean |change| of the log density, in nats, when the steps are halved in length.
        logit_support: map features with a hard support onto the real line first.
    """

    hidden_features: tuple[PositiveInt, ...] = (64, 64)
    steps: PositiveInt = 6
    tolerance: PositiveFloat = 1e-3
    logit_support: bool = True


class ZukoCnf(ConditionalDensity):
    """A continuous flow whose context is theta, integrated in equal steps."""

    Config = ZukoCnfConfig

    flow: ContinuousFlow

    def _build_flow(self, features: int, context: int) -> ContinuousFlow:
        return ContinuousFlow(features, context, self.config.hidden_features, self.config.steps)

    def cost(self) -> dict[str, float | int]:
        """Steps of the equation, and evaluations of the network for one log density."""
        steps = int(self.flow.steps)
        return {"ode_steps": steps, "ode_evaluations": STAGES * steps}

    def finish(self, validation: Events) -> None:
        """Take as many steps as the density of validation events needs; raises `InputError` if eight times more are too few."""
        probe, change = validation[:_PROBE], math.inf
        with torch.no_grad():
            value = self.relative_log_prob(probe.x, probe.theta)
            for _ in range(_DOUBLINGS):
                self.flow.steps *= 2
                finer = self.relative_log_prob(probe.x, probe.theta)
                change, value = float((finer - value).abs().mean()), finer
                if change <= self.config.tolerance:
                    self.flow.steps //= 2
                    return
        raise InputError(
            f"zuko_cnf: expected a log density within {self.config.tolerance:g} at {int(self.flow.steps) // 2} steps; "
            f"it changed by {change:.3g} with twice as many: raise estimator.steps, or lower optimizer.learning_rate"
        )
