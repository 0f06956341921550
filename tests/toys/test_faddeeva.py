"""The Faddeeva function against scipy's, and its derivative against the differential equation w' = 2 i / sqrt(pi) - 2 z w."""

import math

import numpy as np
import torch
from scipy import special

from touchneedle.toys.faddeeva import faddeeva_upper


def points(smallest, largest):
    rng = np.random.default_rng(0)
    size = 10 ** rng.uniform(math.log10(smallest), math.log10(largest), 20_000)
    return torch.from_numpy(size * np.exp(1j * rng.uniform(0, math.pi, 20_000)))


def test_matches_scipy_in_the_upper_half_plane():
    z = points(1e-4, 1e4)
    expected = special.wofz(z.numpy())
    np.testing.assert_allclose(faddeeva_upper(z), expected, rtol=1e-13, atol=0)
    np.testing.assert_allclose(faddeeva_upper(z).imag, expected.imag, rtol=1e-11, atol=0)


def test_on_the_imaginary_axis_it_is_erfcx():
    y = torch.logspace(-3, 3, 50, dtype=torch.float64)
    assert torch.allclose(faddeeva_upper(torch.complex(torch.zeros_like(y), y)).real, torch.special.erfcx(y), rtol=1e-13)


def test_derivative():
    z = points(1e-2, 10)
    real, imaginary = z.real.clone().requires_grad_(), z.imag
    value = faddeeva_upper(torch.complex(real, imaginary))
    (slope,) = torch.autograd.grad(value.imag.sum(), real)
    expected = (2j / math.sqrt(math.pi) - 2 * z * value.detach()).imag
    assert torch.allclose(slope, expected, rtol=1e-10, atol=1e-11)
