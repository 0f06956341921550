"""Rejection sampling with one parameter point per event: all events that still wait are tried at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def draw_by_rejection(
    acceptance: Callable[[Tensor, Tensor], Tensor],
    low: tuple[float, ...],
    high: tuple[float, ...],
    theta: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """One event per row of theta (n, p), with density proportional to ``acceptance`` on the box low..high: shape (n, d).

    Proposals are uniform; ``acceptance(x, theta)`` (m,) is the density relative to a bound that may depend on theta,
    hence between 0 and 1 (von Neumann 1951).
    """
    edge, span = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64) - torch.tensor(low, dtype=torch.float64)
    events = torch.empty(len(theta), len(low), dtype=torch.float64)
    waiting = torch.arange(len(theta))
    while len(waiting):
        u = torch.rand(len(waiting), len(low) + 1, generator=generator, dtype=torch.float64)
        x = edge + span * u[:, 1:]
        accepted = u[:, 0] < acceptance(x, theta[waiting])
        events[waiting[accepted]] = x[accepted]
        waiting = waiting[~accepted]
    return events
