"""The 28 features of a lepton, a hadronic tau, jets and missing momentum, as the FAIR Universe HiggsML data define them.

Definitions: the tables of features of the white paper (arXiv:2410.02867), after the Higgs boson challenge of 2014
(doi:10.7483/OPENDATA.ATLAS.ZBP2.M5T8). Primary features (PRI) are the objects, derived ones (DER) functions of them.
Energies in GeV, angles in rad, all particles massless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from touchneedle.toys.base import Feature

MISSING = -25.0


class Momentum(NamedTuple):
    """Transverse momentum, pseudorapidity and azimuth, each (n,), or (n, m) for m particles."""

    pt: Tensor
    eta: Tensor
    phi: Tensor

    @property
    def x(self) -> Tensor:
        """pt cos(phi)."""
        return self.pt * self.phi.cos()

    @property
    def y(self) -> Tensor:
        """pt sin(phi)."""
        return self.pt * self.phi.sin()


@dataclass(frozen=True)
class TauPair:
    """The objects of n events.

    Attributes:
        jets: (n, m), by falling pt; pt is 0 where there is none.
        met_x, met_y: missing transverse momentum (n,).
        further_jets: how many jets there are beyond ``jets``, softer than all of them, whose directions are not known (n,).
        further_pt: the sum of their pt (n,); without any, what rounding left of a sum of all jets.
    """

    lepton: Momentum
    hadron: Momentum
    jets: Momentum
    met_x: Tensor
    met_y: Tensor
    further_jets: Tensor
    further_pt: Tensor

    @property
    def met(self) -> Momentum:
        """Missing transverse momentum as a particle at eta = 0."""
        return Momentum(torch.hypot(self.met_x, self.met_y), torch.zeros_like(self.met_x), torch.atan2(self.met_y, self.met_x))

    @property
    def jet_count(self) -> Tensor:
        """Number of jets (n,)."""
        return (self.jets.pt > 0).sum(-1) + self.further_jets

    @property
    def jet_pt(self) -> Tensor:
        """Scalar sum of the pt of all jets (n,)."""
        return self.jets.pt.sum(-1) + self.further_pt

    def jet(self, k: int) -> Momentum:
        """Jet k, from 0; with pt 0 where there is none."""
        return Momentum(*(value[:, k] for value in self.jets))


def tau_pair_features(objects: TauPair) -> Tensor:
    """All features (n, 28), in the order of `FEATURES`; -25 where a jet that is needed is missing."""
    return torch.stack([*_primary(objects), *_derived(objects)], -1)


def tau_pair_objects(primary: Tensor) -> TauPair:
    """The objects behind primary features (n, 16), in the order of `PRIMARY`: all that later shifts can know of them."""
    lepton, hadron = Momentum(*primary[:, 0:3].unbind(-1)), Momentum(*primary[:, 3:6].unbind(-1))
    count, jet_pt, met, met_phi = primary[:, 12:].unbind(-1)
    there = torch.arange(2, device=primary.device) < count.unsqueeze(-1)
    jets = Momentum(*(primary[:, [6 + k, 9 + k]].where(there, 0.0) for k in range(3)))
    further = (count - 2).clamp(min=0)
    return TauPair(lepton, hadron, jets, met * met_phi.cos(), met * met_phi.sin(), further, jet_pt - jets.pt.sum(-1))


def delta_phi(a: Tensor, b: Tensor) -> Tensor:
    """a - b in [-pi, pi)."""
    return torch.remainder(a - b + math.pi, 2 * math.pi) - math.pi


def delta_r(a: Momentum, b: Momentum) -> Tensor:
    """sqrt(delta eta^2 + delta phi^2) (DER_deltar_had_lep)."""
    return torch.hypot(a.eta - b.eta, delta_phi(a.phi, b.phi))


def invariant_mass(a: Momentum, b: Momentum) -> Tensor:
    """sqrt(2 pt_a pt_b (cosh delta eta - cos delta phi)), which is sqrt(E^2 - p^2) without its cancellation.

    DER_mass_vis of lepton and tau, DER_mass_jet_jet of the two leading jets. With half angles, since
    cosh u - cos v = 2 (sinh^2(u / 2) + sin^2(v / 2)).
    """
    opening = torch.hypot(((a.eta - b.eta) / 2).sinh(), ((a.phi - b.phi) / 2).sin())
    return 2 * (a.pt * b.pt).sqrt() * opening


def transverse_mass(a: Momentum, b: Momentum) -> Tensor:
    """sqrt(2 pt_a pt_b (1 - cos delta phi)) (DER_mass_transverse_met_lep, of missing momentum and lepton)."""
    return 2 * (a.pt * b.pt).sqrt() * ((a.phi - b.phi) / 2).sin().abs()


def vector_pt(*particles: Momentum) -> Tensor:
    """Transverse momentum of the sum (DER_pt_h of lepton, tau and missing momentum; DER_pt_tot with two jets more)."""
    return torch.hypot(torch.stack([p.x for p in particles]).sum(0), torch.stack([p.y for p in particles]).sum(0))


def phi_centrality(met: Momentum, lepton: Momentum, hadron: Momentum) -> Tensor:
    """(A + B) / sqrt(A^2 + B^2): sqrt 2 with the missing momentum on the bisector of the two, 1 along one of them.

    A = s sin(phi_met - phi_lep), B = s sin(phi_had - phi_met), s = sign(sin(phi_had - phi_lep)) (DER_met_phi_centrality);
    0 where both vanish.
    """
    a, b = (met.phi - lepton.phi).sin(), (hadron.phi - met.phi).sin()
    size = torch.hypot(a, b)
    sign = torch.where((hadron.phi - lepton.phi).sin() < 0, -1.0, 1.0)
    return sign * (a + b) / size.where(size > 0, 1.0)


def eta_centrality(lepton: Momentum, first: Momentum, second: Momentum) -> Tensor:
    """exp(-4 (eta - (eta_1 + eta_2) / 2)^2 / (eta_1 - eta_2)^2): 1 midway between the jets, 1 / e at one of them.

    DER_lep_eta_centrality; jets at one eta have an infinitely narrow middle.
    """
    middle, gap = (first.eta + second.eta) / 2, first.eta - second.eta
    return torch.exp(-4 * (lepton.eta - middle) ** 2 / (gap**2).clamp(min=1e-300))


def _primary(objects: TauPair) -> list[Tensor]:
    met = objects.met
    jets = [component.where(objects.jet(k).pt > 0, MISSING) for k in (0, 1) for component in objects.jet(k)]
    return [*objects.lepton, *objects.hadron, *jets, objects.jet_count.to(met.pt.dtype), objects.jet_pt, met.pt, met.phi]


def _derived(objects: TauPair) -> list[Tensor]:
    lepton, hadron, met, first, second = objects.lepton, objects.hadron, objects.met, objects.jet(0), objects.jet(1)
    two = second.pt > 0
    return [
        transverse_mass(met, lepton),
        invariant_mass(lepton, hadron),
        vector_pt(lepton, hadron, met),
        (first.eta - second.eta).abs().where(two, MISSING),
        invariant_mass(first, second).where(two, MISSING),
        (first.eta * second.eta).where(two, MISSING),
        delta_r(lepton, hadron),
        vector_pt(lepton, hadron, met, first, second),
        lepton.pt + hadron.pt + objects.jet_pt,
        lepton.pt / hadron.pt,
        phi_centrality(met, lepton, hadron),
        eta_centrality(lepton, first, second).where(two, MISSING),
    ]


def _momentum(name: str, particle: str, missing: float | None = None) -> tuple[Feature, ...]:
    return (
        Feature(f"PRI_{name}_pt", "GeV", rf"p_\mathrm{{T}}^\mathrm{{{particle}}}", missing=missing),
        Feature(f"PRI_{name}_eta", "", rf"\eta^\mathrm{{{particle}}}", missing=missing),
        Feature(f"PRI_{name}_phi", "rad", rf"\phi^\mathrm{{{particle}}}", "periodic", missing=missing),
    )


PRIMARY = (
    *_momentum("lep", "lep"),
    *_momentum("had", "had"),
    *_momentum("jet_leading", "jet 1", MISSING),
    *_momentum("jet_subleading", "jet 2", MISSING),
    Feature("PRI_n_jets", "", r"n_\mathrm{jets}", "discrete"),
    Feature("PRI_jet_all_pt", "GeV", r"\sum p_\mathrm{T}^\mathrm{jet}"),
    Feature("PRI_met", "GeV", r"p_\mathrm{T}^\mathrm{miss}"),
    Feature("PRI_met_phi", "rad", r"\phi^\mathrm{miss}", "periodic"),
)
DERIVED = (
    Feature("DER_mass_transverse_met_lep", "GeV", r"m_\mathrm{T}"),
    Feature("DER_mass_vis", "GeV", r"m_\mathrm{vis}"),
    Feature("DER_pt_h", "GeV", r"p_\mathrm{T}^\mathrm{H}"),
    Feature("DER_deltaeta_jet_jet", "", r"|\Delta\eta_{jj}|", missing=MISSING),
    Feature("DER_mass_jet_jet", "GeV", r"m_{jj}", missing=MISSING),
    Feature("DER_prodeta_jet_jet", "", r"\eta_{j1}\eta_{j2}", missing=MISSING),
    Feature("DER_deltar_had_lep", "", r"\Delta R"),
    Feature("DER_pt_tot", "GeV", r"p_\mathrm{T}^\mathrm{tot}"),
    Feature("DER_sum_pt", "GeV", r"\sum p_\mathrm{T}"),
    Feature("DER_pt_ratio_lep_had", "", r"p_\mathrm{T}^\mathrm{lep} / p_\mathrm{T}^\mathrm{had}"),
    Feature("DER_met_phi_centrality", "", r"C_\phi^\mathrm{miss}"),
    Feature("DER_lep_eta_centrality", "", r"C_\eta^\mathrm{lep}", missing=MISSING),
)
FEATURES = (*PRIMARY, *DERIVED)
