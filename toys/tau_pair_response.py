"""A detector for true taus, jets and missing momentum, whose response has a known density at every energy scale.

Momenta are measured with log-normal errors around the energy scales, soft missing momentum with normal ones. So a measured
event has a density for given true objects, and a nuisance that moves events has joint ratio and score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from touchneedle.toys.tau_pair_features import TauPair
from touchneedle.toys.tau_pair_shifts import rescaled

__all__ = ["Resolution", "Response", "Scales", "TruePair"]

# GeV; below it the resolution of the soft momentum stays the same.
LEAST_SOFT_ET = 1.0


@dataclass(frozen=True)
class Resolution:
    """Of the momenta of taus and jets, relative; of the soft momentum's components, in sqrt(GeV) per sqrt(scalar sum)."""

    tau: float
    jet: float
    met: float


class Scales(NamedTuple):
    """The nuisances of the detector, each (n,): energy scales of taus and jets, soft missing momentum in GeV."""

    tes: Tensor
    jes: Tensor
    soft_met: Tensor


class Response(NamedTuple):
    """How the measurement came out: log(measured / true) pt of the tau (n,), of jets (n, m), soft momentum in GeV (n, 2)."""

    tau: Tensor
    jets: Tensor
    soft: Tensor


@dataclass(frozen=True)
class TruePair:
    """True objects of n events, and the frozen latents of their measurement.

    Attributes:
        objects: pt of jets is 0 where there is none; missing momentum is that of the neutrinos.
        soft_et: scalar sum of the pt of what is in no object, in GeV (n,).
        normals: standard normals (n, 3 + m) of the tau, the soft momentum's x and y, and the jets.
    """

    objects: TauPair
    soft_et: Tensor
    normals: Tensor

    def respond(self, scales: Scales, resolution: Resolution) -> Response:
        """The response to the frozen latents: smooth in the scales."""
        return Response(
            scales.tes.log() + resolution.tau * self.normals[:, 0],
            scales.jes.log().unsqueeze(-1) + resolution.jet * self.normals[:, 3:],
            self._soft_width(scales, resolution).unsqueeze(-1) * self.normals[:, 1:3],
        )

    def hadron_pt(self, response: Response) -> Tensor:
        """Measured pt of the tau (n,)."""
        return self.objects.hadron.pt * response.tau.exp()

    def measured(self, response: Response) -> TauPair:
        """The objects as measured, before thresholds; what tau and jets gain, the missing momentum loses."""
        moved = rescaled(self.objects, response.tau.exp(), response.jets.exp())
        return replace(moved, met_x=moved.met_x + response.soft[:, 0], met_y=moved.met_y + response.soft[:, 1])

    def log_density(self, response: Response, scales: Scales, resolution: Resolution) -> Tensor:
        """log p(response|true objects, scales) up to what no scale changes, shape (n,), differentiable in the scales."""
        width = self._soft_width(scales, resolution)
        tau = (response.tau - scales.tes.log()) / resolution.tau
        jets = torch.where(self.objects.jets.pt > 0, (response.jets - scales.jes.log().unsqueeze(-1)) / resolution.jet, 0.0)
        soft = response.soft / width.unsqueeze(-1)
        return -0.5 * (tau.square() + jets.square().sum(-1) + soft.square().sum(-1)) - 2 * width.log()

    def _soft_width(self, scales: Scales, resolution: Resolution) -> Tensor:
        """Of each component, in GeV (n,)."""
        return torch.sqrt(resolution.met**2 * self.soft_et.clamp(min=LEAST_SOFT_ET) + scales.soft_met.square())
