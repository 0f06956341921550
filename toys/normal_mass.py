"""The mass of a normal distribution between two edges: what truncated Gaussians are normalised by."""

from __future__ import annotations

import torch
from torch import Tensor


def log_normal_mass(below: Tensor, above: Tensor) -> Tensor:
    """log(Phi(above) - Phi(below)), accurate also where both edges lie in the same tail."""
    mirrored = below + above > 0
    low, high = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))
