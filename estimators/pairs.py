"""Every event with every theta."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def on_pairs(function: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    """function(first, second), shape (pairs,), of every row of first (n, a) with every row of second (m, b): shape (n, m)."""
    n, m = len(first), len(second)
    return function(first.repeat_interleave(m, 0), second.repeat(n, 1)).reshape(n, m)
