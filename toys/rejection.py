"""Rejection sampling, one event per row of theta, vectorised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CANDIDATES_PER_ROUND = 10_000
Propose = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


def rejection_sample(theta: Tensor, propose: Propose, generator: torch.Generator) -> Tensor:
    """One accepted candidate per row of theta (n, p), shape (n, c).

    ``propose(theta, generator)`` gives a candidate (m, c) for each of m rows, and the probability (m,)
    with which it is kept: density over envelope, at most 1. Rows without an accepted candidate are drawn again.
    """
    pending = torch.arange(len(theta))
    events = propose(theta, generator)[0]
    while len(pending):
        # The last rows get many candidates a round, of which the first accepted one is kept.
        copies = max(1, min(len(theta), CANDIDATES_PER_ROUND) // len(pending))
        candidates, keep = propose(theta[pending].repeat(copies, 1), generator)
        accepted = (torch.rand(len(keep), generator=generator, dtype=torch.float64) < keep).reshape(copies, -1)
        found = accepted.any(0)
        first = accepted.int().argmax(0)[found]
        events[pending[found]] = candidates.reshape(copies, len(pending), -1)[first, found.nonzero().flatten()]
        pending = pending[~found]
    return events


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
    edge, end = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)

    def propose(theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = edge + (end - edge) * torch.rand(len(theta), len(low), generator=generator, dtype=torch.float64)
        return x, acceptance(x, theta)

    return rejection_sample(theta, propose, generator)


def choose(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Index drawn in proportion to the weights of each row (n, k), shape (n,)."""
    total = weights.cumsum(-1)
    u = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64)
    return (u * total[:, -1:] >= total[:, :-1]).sum(-1)
