"""The Faddeeva function w(z) = exp(-z^2) erfc(-i z) of complex tensors, differentiable: torch has the real erfcx only."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TERMS = 40
SCALE = math.sqrt(TERMS / math.sqrt(2))


def faddeeva_upper(z: Tensor) -> Tensor:
    """w(z) for complex z with Im z >= 0, to 13 digits: shape of z.

    w(z) = 2 p(Z) / (L - i z)^2 + 1 / (sqrt(pi) (L - i z)), Z = (L + i z) / (L - i z), with a polynomial p of 40 terms
    from one Fourier transform (Weideman 1994, SIAM J. Numer. Anal. 31, 1497).
    """
    below = SCALE - 1j * z
    ratio = (SCALE + 1j * z) / below
    polynomial = torch.zeros_like(ratio)
    for coefficient in _COEFFICIENTS:
        polynomial = polynomial * ratio + coefficient
    return (2 * polynomial / below + 1 / math.sqrt(math.pi)) / below


def _coefficients() -> list[float]:
    """Highest power first."""
    m = 2 * TERMS
    t = SCALE * np.tan(np.arange(-m + 1, m) * math.pi / (2 * m))
    values = np.concatenate([[0.0], np.exp(-(t**2)) * (SCALE**2 + t**2)])
    transform = np.fft.fft(np.fft.fftshift(values)).real / (2 * m)
    return [float(value) for value in transform[TERMS:0:-1]]


_COEFFICIENTS = _coefficients()
