"""A bound on what building an estimator may allocate, so that no manifest can exhaust a machine's memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from touchneedle.conf.errors import InputError

# What a tensor counts at least: a million tiny layers take as long as one huge one.
SMALLEST = 1_000


class BoundedAllocation(TorchDispatchMode):
    """Raises `InputError` once the tensors created inside hold more than ``limit`` numbers (at least 1,000 each)."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit, self.what, self.made = limit, what, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what is made from nothing; a size is looked at before it is allocated."""
        if any(isinstance(argument, Tensor) for argument in args):
            return func(*args, **(kwargs or {}))
        if args and isinstance(args[0], (list, tuple, torch.Size)) and all(isinstance(side, int) for side in args[0]):
            self._allow(math.prod(args[0]))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.made += max(SMALLEST, result.numel())
            self._allow(0)
        return result

    def _allow(self, more: int) -> None:
        if self.made + more > self.limit:
            raise InputError(f"{self.what}: its options ask for far more numbers than there are in its weights ({self.limit:,} allowed)")
