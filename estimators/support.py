"""Features with a hard support, mapped onto the whole real line.

A flow gives every real x a density. Where a toy says that a feature ends, its column is passed
through a logit (or a log, where one end is open), so that the flow cannot leak beyond the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from touchneedle.toys.base import Feature

# Share of the range (or distance, where one end is open) at which values near an edge are held.
_MARGIN = 1e-6


class SupportMap(nn.Module):
    """x (n, d) to z (n, d) on the real line, column by column; features without support pass through."""

    def __init__(self, features: Sequence[Feature], *, enabled: bool = True) -> None:
        super().__init__()
        self.supports: dict[int, tuple[float, float]] = {}
        for column, feature in enumerate(features):
            if enabled and feature.support is not None and any(math.isfinite(edge) for edge in feature.support):
                self.supports[column] = feature.support

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |dz/dx| summed over columns, shapes (n, d) and (n,)."""
        columns = list(x.unbind(-1))
        log_jacobian = torch.zeros_like(columns[0])
        for column, (low, high) in self.supports.items():
            columns[column], part = _to_real(columns[column], low, high)
            log_jacobian = log_jacobian + part
        return torch.stack(columns, -1), log_jacobian

    def inverse(self, z: Tensor) -> Tensor:
        """x of z."""
        columns = list(z.unbind(-1))
        for column, (low, high) in self.supports.items():
            columns[column] = _from_real(columns[column], low, high)
        return torch.stack(columns, -1)

    def inside(self, x: Tensor) -> Tensor:
        """Whether each event lies in the support, shape (n,)."""
        inside = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for column, (low, high) in self.supports.items():
            inside &= (x[:, column] >= low) & (x[:, column] <= high)
        return inside


def _to_real(value: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    if math.isfinite(low) and math.isfinite(high):
        fraction = ((value - low) / (high - low)).clamp(_MARGIN, 1 - _MARGIN)
        up, down = fraction.log(), torch.log1p(-fraction)
        return up - down, -up - down - math.log(high - low)
    log_distance = (value - low if math.isfinite(low) else high - value).clamp_min(_MARGIN).log()
    return log_distance, -log_distance


def _from_real(z: Tensor, low: float, high: float) -> Tensor:
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * torch.sigmoid(z)
    return low + z.exp() if math.isfinite(low) else high - z.exp()
