r"""q qbar -> gamma*/Z -> mu- mu+ at lowest order: the angular density in closed form, as Pythia generates it.

With s = m^2, c = cos(q, mu-) and couplings v_f = a_f - 4 e_f sin2theta_eff, a_f = +-1,

    d sigma / dc ~ A (1 + c^2) + B c,
    A = e_q^2 e_l^2 + 2 e_q e_l v_q v_l Re(chi) + (v_q^2 + a_q^2) (v_l^2 + a_l^2) \|chi\|^2,
    B = 4 e_q e_l a_q a_l Re(chi) + 8 v_q a_q v_l a_l \|chi\|^2,
    chi = s / (16 S (1 - S)) / (s - M_Z^2 + i s Gamma_Z / M_Z),   S = 0.2312.

S is the on-shell angle of the couplings' common factor and stays fixed; sin2theta_eff enters the vector couplings
alone (Pythia's ``sin2thetaWbar``), and through them Gamma_Z. Parton densities, the running electromagnetic coupling
and showers do not depend on it, and cancel in ratios.
Source: Ellis, Stirling, Webber 1996, QCD and Collider Physics, section 8.4 (chi's normalisation; running width).
"""

from __future__ import annotations

from torch import Tensor

M_Z = 91.1876
SINE_ON_SHELL = 0.2312
# Pythia 8.317 computes the width from the couplings, quadratic in sin2theta_eff, and ignores a width that is set:
# the polynomial through its values at 0.15, 0.2315 and 0.31 is its value at 0.20 and 0.26 to 1e-14.
WIDTH = (9.115127710484888, -6.877819343341074, 3.6079045600181554)


def width(sine: Tensor) -> Tensor:
    """Gamma_Z in GeV at sin2theta_eff."""
    square, linear, constant = WIDTH
    return (square * sine + linear) * sine + constant


def angular_density(sine: Tensor, flavour: Tensor, mass: Tensor, cosine: Tensor) -> Tensor:
    """A (1 + c^2) + B c, unnormalised, at sin2theta_eff and the hard process (PDG flavour 1 to 5, m in GeV, c); they broadcast."""
    up = (flavour % 2 == 0).to(sine.dtype)
    charge, axial = up - 1 / 3, 2 * up - 1
    vector, lepton = axial - 4 * sine * charge, 4 * sine - 1
    s = mass**2
    detuning, damping = s - M_Z**2, s * width(sine) / M_Z
    strength = s / (16 * SINE_ON_SHELL * (1 - SINE_ON_SHELL)) / (detuning**2 + damping**2)
    real, square = strength * detuning, strength * s / (16 * SINE_ON_SHELL * (1 - SINE_ON_SHELL))
    # The lepton has charge -1 and axial coupling -1.
    even = charge**2 - 2 * charge * vector * lepton * real + (vector**2 + 1) * (lepton**2 + 1) * square
    odd = 4 * charge * axial * real - 8 * vector * axial * lepton * square
    return even * (1 + cosine**2) + odd * cosine
