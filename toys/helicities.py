"""Angles of ZZ -> 4l: amplitudes of Z helicities, summed over lepton helicities that nobody sees, and cosines drawn one by one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of both bosons of the pair; and of the two negative leptons, whose left-handed share is that of sin^2(theta_W) = 0.2312.
BOSONS = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
LEPTONS = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
LEFT = 0.575
SHARES = torch.tensor([LEFT**2, LEFT * (1 - LEFT), LEFT * (1 - LEFT), (1 - LEFT) ** 2], dtype=torch.float64)
# Integral of a squared product of two rotation functions over the cosines and the angle between the decay planes.
SOLID_ANGLE = 8 * math.pi / 9


def rotations(cosines: Tensor, leptons: Tensor) -> Tensor:
    """d^1_{h l1}(cos1) d^1_{h l2}(cos2) for cosines and lepton helicities (..., 2), shape (..., 3) for h = -1, 0, 1.

    Source: Particle Data Group, table of d functions.
    """
    same = 0.5 * (1 + leptons * cosines)
    longitudinal = leptons * torch.sqrt(0.5 * (1 - cosines**2))
    return torch.stack([1 - same, longitudinal, same], -1).prod(-2)


def squared_sum(real: Tensor, imaginary: Tensor, azimuth: Tensor, functions: Tensor) -> Tensor:
    r"""\|sum_h A_h f_h e^{i h azimuth}\|^2 of amplitudes A (n, 3), azimuth (n,) and functions f (n, k, 3): shape (n, k)."""
    turn = azimuth.unsqueeze(-1) * BOSONS.to(azimuth.device)
    cosine, sine = turn.cos(), turn.sin()
    amplitude = torch.stack([real * cosine - imaginary * sine, real * sine + imaginary * cosine], -1)
    return (functions @ amplitude).square().sum(-1)


def angular_intensity(real: Tensor, imaginary: Tensor, angles: Tensor) -> Tensor:
    """Density of angles (cos1, cos2, azimuth) (n, 3) for amplitudes A (n, 3), times the sum of their squares: shape (n,)."""
    functions = rotations(angles[:, :2].unsqueeze(1), LEPTONS.to(angles.device))
    return squared_sum(real, imaginary, angles[:, 2], functions) @ SHARES.to(angles.device) / SOLID_ANGLE


def draw_cosines(products: Tensor, generator: torch.Generator) -> Tensor:
    """Cosines of density (1 - c)^2, 1 - c^2 or (1 + c)^2 for a product -1, 0 or 1 of boson and lepton helicity; its shape.

    They are the lowest, the middle and the highest of three uniform numbers.
    """
    uniform = 2 * torch.rand(*products.shape, 3, generator=generator, dtype=torch.float64) - 1
    return uniform.sort(-1).values.gather(-1, (products + 1).long().unsqueeze(-1)).squeeze(-1)
