"""A lepton, a hadronic tau and jets in the event records of a generator, before a detector measures them.

Awkward Array and FastJet (Cacciari, Salam, Soyez 2012, arXiv:1111.6097; under the GPL) are imported when events are
generated, and nowhere else. No loop over events: a record is one flat table of the particles of all events.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Thresholds in GeV: the tau's and the jets' so far below the analysis's that a scale of 1.1 lifts softer ones across by three sigmas only.
LEPTON_PT, HADRON_PT, JET_PT = 20.0, 18.0, 15.0
MAX_ETA, MAX_JET_ETA = 2.5, 4.5
MAX_JETS, RADIUS = 6, 0.4
LEPTONS, TAU, NEUTRINOS, BOSONS = (11, 13), 15, (12, 14, 16), (23, 24, 25)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Record(NamedTuple):
    """The p particles of n events, event after event.

    Attributes:
        n: number of events.
        event: which one (p,).
        code: PDG code (p,).
        mother: row of the first mother (p,); its own row for the first entry of an event, at which all histories end.
        final: whether it is stable (p,).
        momentum: px, py, pz, E in GeV (p, 4).
    """

    n: int
    event: Rows
    code: Rows
    mother: Rows
    final: Mask
    momentum: Floats

    @classmethod
    def read(cls, particles: Any) -> Record:
        """From the particles of an Awkward Array, with Pythia's names and statuses."""
        awkward = import_module("awkward")

        def flat(values: Any) -> NDArray[Any]:
            return awkward.to_numpy(awkward.flatten(values))

        counts = awkward.to_numpy(awkward.num(particles.id)).astype(np.int64)
        event = np.repeat(np.arange(len(counts)), counts)
        mother = (counts.cumsum() - counts)[event] + flat(particles.mother1)
        momentum = np.stack([flat(particles.p[part]) for part in ("px", "py", "pz", "e")], axis=1).astype(np.float64)
        return cls(len(counts), event, flat(particles.id).astype(np.int64), mother, flat(particles.status) > 0, momentum)


class Ancestry(NamedTuple):
    """Which leptons and taus are those of bosons, and what comes of these taus.

    Attributes:
        lepton: electrons and muons of a boson, or of a tau of one (p,).
        hadron: taus of a boson that decay to hadrons (p,).
        origin: row of the decaying tau that a particle comes from (p,); of no meaning for others.
        from_tau: whether it comes from one and is stable (p,).
    """

    lepton: Mask
    hadron: Mask
    origin: Rows
    from_tau: Mask


def tau_pair_columns(particles: Any) -> tuple[Rows, dict[str, Floats]]:
    """Events (n,) with one lepton and one hadronic tau of opposite charges, and their objects, each (n,).

    Columns: pt (GeV), eta and phi of ``lepton``, ``hadron`` (without its neutrino) and ``jet0`` to ``jet5`` (pt 0 where there is
    none); ``met_x``, ``met_y``, the sum of all neutrinos; ``soft_et``, the scalar sum of the pt of what is in none of them.
    """
    record = Record.read(particles)
    ancestry = follow(record)
    visible = _sums(ancestry.origin, record.momentum, ancestry.from_tau & ~_is_neutrino(record), len(record.code))
    lepton = _hardest(record, ancestry.lepton, record.momentum, LEPTON_PT)
    hadron = _hardest(record, ancestry.hadron, visible, HADRON_PT)
    both = (lepton >= 0) & (hadron >= 0)
    chosen = np.flatnonzero(both & (record.code[lepton] * record.code[hadron] < 0))
    lepton, hadron = lepton[chosen], hadron[chosen]
    columns = _named("lepton", polar(record.momentum[lepton])) | _named("hadron", polar(visible[hadron]))
    missing = _sums(record.event, record.momentum, record.final & _is_neutrino(record), record.n)[chosen]
    columns |= {"met_x": missing[:, 0], "met_y": missing[:, 1]}
    return chosen, columns | _hadronic(record, _recoil(record, ancestry, chosen, lepton, hadron), chosen)


def follow(record: Record) -> Ancestry:
    """Leptons and hadronic taus of a boson. Copies of a particle (after radiation, say) count as it, and the last one decays."""
    code, rows = np.abs(record.code), np.arange(len(record.code))
    root, copy = record.mother == rows, code[record.mother] == code
    parent = record.mother[ancestor(record.mother, ~copy | root)]
    of_boson = np.isin(code[parent], BOSONS)
    decayed = (code == TAU) & of_boson & ~record.final
    decayed[record.mother[(code == TAU) & copy]] = False
    origin = ancestor(record.mother, decayed | root)
    from_tau = record.final & decayed[origin]
    lepton = record.final & np.isin(code, LEPTONS) & (of_boson | decayed[parent])
    leptonic = np.zeros_like(decayed)
    leptonic[origin[lepton & from_tau]] = True
    return Ancestry(lepton, decayed & ~leptonic, origin, from_tau)


def ancestor(mother: Rows, stop: Mask) -> Rows:
    """The first row of ``stop`` on the way from each row to its mother and so on (p,); all ways must end there."""
    here = np.where(stop, np.arange(len(mother)), mother)
    # Steps double in length.
    while not np.array_equal(here[here], here):
        here = here[here]
    return here


def polar(momentum: Floats) -> Floats:
    """pt, eta and phi of momenta (n, 4): shape (n, 3)."""
    px, py, pz, _ = momentum.T
    pt = np.hypot(px, py)
    return np.stack([pt, np.arcsinh(pz / np.maximum(pt, 1e-9)), np.arctan2(py, px)], axis=1)


def _is_neutrino(record: Record) -> Mask:
    return np.isin(np.abs(record.code), NEUTRINOS)


def _sums(group: Rows, values: Floats, chosen: Mask, n: int) -> Floats:
    """Sums of the chosen rows of ``values`` (p, 4) by group: shape (n, 4)."""
    sums = np.empty((n, values.shape[1]))
    for k, column in enumerate(values[chosen].T):
        sums[:, k] = np.bincount(group[chosen], column, n)
    return sums


def _hardest(record: Record, candidates: Mask, momentum: Floats, threshold: float) -> Rows:
    """Row of the candidate of highest pt in each event within the acceptance, -1 where there is none: shape (n,)."""
    rows = np.flatnonzero(candidates)
    pt, eta, _ = polar(momentum[rows]).T
    kept = (pt > threshold) & (np.abs(eta) < MAX_ETA)
    rows, pt = rows[kept], pt[kept]
    order = rows[np.lexsort((-pt, record.event[rows]))]
    events, first = np.unique(record.event[order], return_index=True)
    found = np.full(record.n, -1)
    found[events] = order[first]
    return found


def _recoil(record: Record, ancestry: Ancestry, chosen: Rows, lepton: Rows, hadron: Rows) -> Mask:
    """What jets are made of: all that is visible but the lepton and the hadronic tau, in the chosen events."""
    visible = record.final & ~_is_neutrino(record) & np.isin(record.event, chosen)
    visible[lepton] = False
    return visible & ~(ancestry.from_tau & np.isin(ancestry.origin, hadron))


def _hadronic(record: Record, used: Mask, chosen: Rows) -> dict[str, Floats]:
    """Columns of the jets and of the soft rest."""
    rows = np.flatnonzero(used)
    kinematics = polar(record.momentum[rows])
    inside = np.abs(kinematics[:, 1]) < MAX_JET_ETA
    rows, event = rows[inside], np.searchsorted(chosen, record.event[rows[inside]])
    jets = _jets(record.momentum[rows], np.bincount(event, minlength=len(chosen)))
    total = np.bincount(event, kinematics[inside, 0], len(chosen))
    columns = {"soft_et": np.maximum(total - jets[:, :, 0].sum(1), 0)}
    for k in range(MAX_JETS):
        columns |= _named(f"jet{k}", jets[:, k])
    return columns


def _jets(momentum: Floats, counts: Rows) -> Floats:
    """pt, eta and phi of the hardest anti-kt jets of each event, by falling pt, 0 where there are fewer: (n, MAX_JETS, 3)."""
    if not len(momentum):
        return np.zeros((len(counts), MAX_JETS, 3))
    awkward, fastjet = import_module("awkward"), quiet_fastjet()
    fields = dict(zip(("px", "py", "pz", "E"), momentum.T, strict=True))
    particles = awkward.unflatten(awkward.zip(fields, with_name="Momentum4D"), counts)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    jets = fastjet.ClusterSequence(particles, definition).inclusive_jets(min_pt=JET_PT)
    jets = jets[awkward.argsort(np.hypot(jets.px, jets.py), ascending=False)]
    padded = [awkward.fill_none(awkward.pad_none(jets[part], MAX_JETS, clip=True), 0.0) for part in ("px", "py", "pz", "E")]
    return polar(np.stack([awkward.to_numpy(part).ravel() for part in padded], axis=1)).reshape(-1, MAX_JETS, 3)


@cache
def quiet_fastjet() -> Any:
    """FastJet, which prints a banner to standard output unless its stream is taken away."""
    fastjet = import_module("fastjet")
    import_module("fastjet._swig").ClusterSequence.set_fastjet_banner_stream(None)
    return fastjet


def _named(name: str, kinematics: Floats) -> dict[str, Floats]:
    return {f"{name}_{part}": kinematics[:, k] for k, part in enumerate(("pt", "eta", "phi"))}
