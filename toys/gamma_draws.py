"""Logarithms of gamma variates from an explicit generator, for any shape down to zero."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_log_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """log g with g ~ Gamma(shape, 1), the shape of ``shape`` (positive, float64).

    Marsaglia and Tsang (2000) for Gamma(shape + 1), then g = g' U^(1/shape); in logarithms nothing underflows.
    """
    d = shape + 1 - 1 / 3
    value = torch.empty_like(shape)
    missing = torch.ones_like(shape, dtype=torch.bool)
    while bool(missing.any()):
        here = d[missing]
        z = torch.randn(here.shape, generator=generator, dtype=shape.dtype)
        cube = (1 + z / torch.sqrt(9 * here)) ** 3
        log_cube = cube.clamp(min=1e-300).log()
        u = torch.rand(here.shape, generator=generator, dtype=shape.dtype)
        accepted = (cube > 0) & (u.log() < 0.5 * z**2 + here * (1 - cube + log_cube))
        rows = missing.nonzero(as_tuple=True)
        chosen = tuple(index[accepted] for index in rows)
        value[chosen] = (here.log() + log_cube)[accepted]
        missing[chosen] = False
    # 1 - U is never zero.
    return value + torch.log1p(-torch.rand(shape.shape, generator=generator, dtype=shape.dtype)) / shape
