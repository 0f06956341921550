"""Densities by an ordinary differential equation, in a fixed number of steps.

A velocity dy/dt = v(y, t) carries data (at t_data) to a standard normal (at t_noise), and

    log p(y) = log N(y(t_noise); 0, 1) + integral of div v along the way from t_data to t_noise

(Chen et al. 2018, arXiv:1806.07366, eq. 8). Steps are fixed (classical Runge-Kutta of fourth order): an answer does
not depend on the rest of its batch, and is differentiable in whatever v depends on. How many steps are needed is measured
once, after training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.conditional_distribution import log_standard_normal

Field = Callable[[Tensor, float], Tensor]
FieldWithDivergence = Callable[[Tensor, float], tuple[Tensor, Tensor]]
# Evaluations of the field in one Runge-Kutta step.
STAGES = 4


@dataclass
class OdeConfig:
    """Options of an ordinary differential equation.

    Attributes:
        steps: Runge-Kutta steps to begin with; doubled after training until the error is below ``tolerance``.
        max_steps: more than that many raise `InputError`: the field is too rough to be integrated.
        tolerance: largest rms change of the log density when steps are halved, on validation events.
    """

    steps: PositiveInt = 2
    max_steps: PositiveInt = 128
    tolerance: PositiveFloat = 3e-3


def integrate(field: Field, state: Tensor, times: Tensor | list[float]) -> Tensor:
    """The state (n, ...) after d state / dt = field(state, t) from times[0] to times[-1], one step between neighbours."""
    points = [float(time) for time in times]
    for start, end in itertools.pairwise(points):
        step = end - start
        first = field(state, start)
        second = field(state + 0.5 * step * first, start + 0.5 * step)
        third = field(state + 0.5 * step * second, start + 0.5 * step)
        fourth = field(state + step * third, end)
        state = state + step / 6 * (first + 2 * (second + third) + fourth)
    return state


class FlowOde(nn.Module):
    """The way between data and noise: nodes of the steps, their number, and the error that is left.

    Attributes:
        nodes: number of steps k -> the k + 1 times from data to noise.
        steps: of the Runge-Kutta method, as found by `settle`.
        error: rms change of the log density when these steps are halved; NaN before `settle`.
    """

    steps: Tensor
    error: Tensor

    def __init__(self, config: OdeConfig, nodes: Callable[[int], list[float]]) -> None:
        super().__init__()
        self.nodes, self.tolerance, self.max_steps = nodes, config.tolerance, config.max_steps
        self.register_buffer("steps", torch.tensor(config.steps))
        self.register_buffer("error", torch.tensor(math.nan))

    @property
    def evaluations(self) -> int:
        """Evaluations of the field for one log density."""
        return STAGES * int(self.steps)

    def log_density(self, field: FieldWithDivergence, y: Tensor, steps: int | None = None) -> Tensor:
        """log p(y) of data y (n, d), shape (n,)."""

        def with_log_density(state: Tensor, time: float) -> Tensor:
            velocity, divergence = field(state[:, :-1], time)
            return torch.cat([velocity, divergence[:, None]], -1)

        start = torch.cat([y, torch.zeros_like(y[:, :1])], -1)
        end = integrate(with_log_density, start, self.nodes(steps or int(self.steps)))
        return log_standard_normal(end[:, :-1]) + end[:, -1]

    def transport(self, field: Field, noise: Tensor) -> Tensor:
        """Data from standard normal noise (n, d)."""
        return integrate(field, noise, self.nodes(int(self.steps))[::-1])

    def settle(self, log_density: Callable[[int], Tensor]) -> None:
        """Double the steps until halving them again changes ``log_density(steps)`` by less than the tolerance.

        Raises `InputError` if ``max_steps`` are not enough.
        """
        steps = int(self.steps)
        coarse = log_density(steps)
        while True:
            fine = log_density(2 * steps)
            error = float((fine - coarse).double().square().mean().sqrt())
            if error <= self.tolerance:
                break
            if 2 * steps > self.max_steps:
                raise InputError(
                    f"the learned velocity cannot be integrated: log densities change by {error:.2g} (rms) between {steps} and "
                    f"{2 * steps} steps, tolerance {self.tolerance:g}; train longer, or raise estimator.max_steps or estimator.tolerance"
                )
            steps, coarse = 2 * steps, fine
        self.steps.fill_(steps)
        self.error.fill_(error)

    def cost(self) -> dict[str, float | int]:
        """What a record tells of it."""
        return {"ode_steps": int(self.steps), "ode_evaluations": self.evaluations, "ode_error": float(self.error)}
