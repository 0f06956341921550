"""HistFactory interpolation code 4: a positive factor between a down, a nominal and an up variation.

A polynomial of order 6 for |alpha| <= 1, an exponential outside, with continuous value, first and
second derivative (Cranmer et al. 2012, CERN-OPEN-2012-016; coefficients as in ATLAS 2024,
arXiv:2412.01600). Used by template fits, morphing estimators and rate models.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The polynomial may dip below zero between very different anchors.
_SMALLEST_FACTOR = 1e-6


def interpolate_code4(alpha: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Factor at ``alpha``: ``up`` at +1, ``down`` at -1, 1 at 0; up**alpha and down**(-alpha) outside.

    The arguments broadcast; ``up`` and ``down`` are positive ratios to nominal. The polynomial may
    leave the positive range between anchors that differ by large factors.
    """
    inside = _polynomial(alpha.clamp(-1, 1), up, down)
    above = torch.exp(alpha.clamp_min(1) * up.log())
    below = torch.exp(-alpha.clamp_max(-1) * down.log())
    return torch.where(alpha > 1, above, torch.where(alpha < -1, below, inside))


def log_interpolate_code4(alpha: Tensor, log_up: Tensor, log_down: Tensor) -> Tensor:
    """Logarithm of `interpolate_code4` from the logarithms of its ratios: finite far outside, where the factor overflows.

    The factor between the anchors is held at 1e-6 where its polynomial falls below.
    """
    inside = _polynomial(alpha.clamp(-1, 1), log_up.exp(), log_down.exp()).clamp_min(_SMALLEST_FACTOR).log()
    return torch.where(alpha > 1, alpha * log_up, torch.where(alpha < -1, -alpha * log_down, inside))


def code4_coefficients(up: Tensor, down: Tensor) -> tuple[Tensor, ...]:
    """(a_1, ..., a_6) of 1 + sum a_i alpha^i, which joins the exponentials smoothly at alpha = -1 and 1."""
    log_up, log_down = up.log(), down.log()
    s0, a0 = _halves(up, down)
    a1, s1 = _halves(up * log_up, down * log_down)
    s2, a2 = _halves(up * log_up**2, down * log_down**2)
    return (
        (15 * a0 - 7 * s1 + a2) / 8,
        (-24 + 24 * s0 - 9 * a1 + s2) / 8,
        (-5 * a0 + 5 * s1 - a2) / 4,
        (12 - 12 * s0 + 7 * a1 - s2) / 4,
        (3 * a0 - 3 * s1 + a2) / 8,
        (-8 + 8 * s0 - 5 * a1 + s2) / 8,
    )


def _polynomial(alpha: Tensor, up: Tensor, down: Tensor) -> Tensor:
    value = torch.zeros_like(alpha)
    for coefficient in reversed(code4_coefficients(up, down)):
        value = (value + coefficient) * alpha
    return 1 + value


def _halves(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Half sum and half difference."""
    return (up + down) / 2, (up - down) / 2
