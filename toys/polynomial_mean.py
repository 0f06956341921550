"""Means over events as polynomials in two parameters: smooth, and as quick for a million events as for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PolynomialMean"]

NODES, DEGREE = 14, 12
Ranges = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class PolynomialMean:
    """E[f(a) g(b)] over the events of each of k processes, for a and b within their ranges.

    Attributes:
        coefficients: of the powers 0 to `DEGREE` of a and b, both from -1 to 1 over their ranges, (k, DEGREE + 1, DEGREE + 1).
    """

    ranges: Ranges
    coefficients: Tensor

    @classmethod
    def fit(cls, ranges: Ranges, f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor], label: Tensor, k: int) -> PolynomialMean:
        """Least squares at Chebyshev nodes. ``f`` and ``g`` give the factors of all events (n,) at one value; ``label`` (n,)."""
        nodes = torch.cos(math.pi * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)
        values = [
            torch.stack([factor((low + high + node * (high - low)) / 2) for node in nodes])
            for factor, (low, high) in zip((f, g), ranges, strict=True)
        ]
        inverse = torch.linalg.pinv(_powers(nodes))
        means = [values[0][:, label == process] @ values[1][:, label == process].T / (label == process).sum() for process in range(k)]
        return cls(ranges, torch.stack([inverse @ mean @ inverse.T for mean in means]))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The means at values (m,): shape (m, k), differentiable."""
        scaled = [(2 * value - low - high) / (high - low) for value, (low, high) in zip((a, b), self.ranges, strict=True)]
        return torch.einsum("mi,kij,mj->mk", _powers(scaled[0]), self.coefficients.to(a.device), _powers(scaled[1]))


def _powers(value: Tensor) -> Tensor:
    """1, v, .. v^DEGREE of v (n,), shape (n, DEGREE + 1)."""
    return torch.stack([value**power for power in range(DEGREE + 1)], -1)
