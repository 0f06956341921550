"""Rejection sampling, one event per row of theta, vectorised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Propose = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


def rejection_sample(theta: Tensor, propose: Propose, generator: torch.Generator) -> Tensor:
    """One accepted candidate per row of theta (n, p), shape (n, c).

    ``propose(theta, generator)`` gives a candidate (m, c) for each of m rows, and the probability (m,)
    with which it is kept: density over envelope, at most 1. Rows without an accepted candidate are drawn again.
    """
    pending = torch.arange(len(theta))
    candidates, keep = propose(theta, generator)
    events = torch.empty_like(candidates)
    while len(pending):
        accepted = torch.rand(len(pending), generator=generator, dtype=torch.float64) < keep
        events[pending[accepted]] = candidates[accepted]
        pending = pending[~accepted]
        candidates, keep = propose(theta[pending], generator)
    return events


def choose(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Index drawn in proportion to the weights of each row (n, k), shape (n,)."""
    total = weights.cumsum(-1)
    u = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64)
    return (u * total[:, -1:] >= total[:, :-1]).sum(-1)
