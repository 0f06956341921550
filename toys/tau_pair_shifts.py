"""Energy scales and soft missing momentum of a lepton, a hadronic tau and jets: x = g(objects, frozen latents; theta).

The nuisances of the FAIR Universe challenge (arXiv:2410.02867, section on systematic biases), on objects as they were before
any cut, so that every theta is available without simulating anew. Thresholds act on what is shifted.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.toys.tau_pair_features import Momentum, TauPair

# Thresholds on shifted pt, in GeV.
HADRON_CUT, LEPTON_CUT, JET_CUT = 26.0, 20.0, 26.0


def shifted(objects: TauPair, latents: Tensor, tes: Tensor, jes: Tensor, soft_met: Tensor) -> TauPair:
    """The same objects at other energy scales, before thresholds; each nuisance (n,), latents standard normal (n, 2).

    pt of the tau times ``tes``, of every jet times ``jes``; the missing momentum loses what they gain, as vectors, and gains
    ``soft_met`` GeV times the latents along x and y. Jets of unknown direction cannot be balanced: only the sum of their pt
    moves.
    """
    moved = rescaled(objects, tes, jes.unsqueeze(-1))
    return replace(
        moved,
        met_x=moved.met_x + soft_met * latents[:, 0],
        met_y=moved.met_y + soft_met * latents[:, 1],
        further_pt=objects.further_pt * jes,
    )


def rescaled(objects: TauPair, hadron_scale: Tensor, jet_scale: Tensor) -> TauPair:
    """The same objects with pt of the tau times ``hadron_scale`` (n,), of jets times ``jet_scale`` (n, m) or (n, 1).

    The missing momentum loses what they gain, as vectors.
    """
    hadron = objects.hadron._replace(pt=objects.hadron.pt * hadron_scale)
    jets = objects.jets._replace(pt=objects.jets.pt * jet_scale)
    gained_x = hadron.x - objects.hadron.x + (jets.x - objects.jets.x).sum(-1)
    gained_y = hadron.y - objects.hadron.y + (jets.y - objects.jets.y).sum(-1)
    return replace(objects, hadron=hadron, jets=jets, met_x=objects.met_x - gained_x, met_y=objects.met_y - gained_y)


def with_hard_jets(objects: TauPair, cut: float = JET_CUT) -> TauPair:
    """The jets above ``cut``, ordered and counted anew; what is dropped stays in the missing momentum's balance.

    A single further jet has a known pt, and all are softer than the last of ``jets``: below the cut if it is. Where there are
    several above the cut together, how many of them pass is not known, and all are kept.
    """
    kept = torch.where(objects.jets.pt > cut, objects.jets.pt, 0.0)
    order = kept.argsort(dim=-1, descending=True, stable=True)
    jets = Momentum(*(value.gather(-1, order) for value in (kept, objects.jets.eta, objects.jets.phi)))
    soft = (objects.jets.pt.min(-1).values <= cut) | (objects.further_jets > 0) & (objects.further_pt <= cut)
    further, further_pt = (value.where(~soft, 0) for value in (objects.further_jets, objects.further_pt))
    return replace(objects, jets=jets, further_jets=further, further_pt=further_pt)


def is_selected(lepton_pt: Tensor, hadron_pt: Tensor) -> Tensor:
    """Whether shifted lepton and tau pass their thresholds of 20 and 26 GeV (n,)."""
    return (lepton_pt > LEPTON_CUT) & (hadron_pt > HADRON_CUT)


def frozen_normals(rows: NDArray[np.float32], purpose: str, k: int = 2) -> Tensor:
    """``k`` standard normal numbers for each row (n, d) of an event's own values: shape (n, k), float64.

    From the BLAKE2b hash of the row's bytes, one hash a ``purpose`` (16 bytes at most): the same event has the same numbers
    whichever events stand around it. Equal events share theirs; -0 counts as 0.
    """
    rows, person = np.ascontiguousarray(rows + np.float32(0)), purpose.encode()
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8 * k, person=person).digest() for row in rows)
    # 52 bits and a half lie strictly between 0 and 1 in float64.
    uniform = ((np.frombuffer(digests, dtype="<u8") >> 12) + 0.5) / 2.0**52
    return torch.special.ndtri(torch.from_numpy(uniform).reshape(len(rows), k))
