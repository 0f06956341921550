"""Pythia's H -> tau tau, Z -> tau tau, top and W pairs at 13 TeV to a lepton and a hadronic tau: the events of `higgs_tautau`.

Pythia and FastJet are imported when events are generated (see `touchneedle.toys.pythia`). Leading order, hadronised,
without multiple interactions, which would take three and a half times as long; the detector is the toy's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import Chunk, CrossSection
from touchneedle.toys.pythia import SHOWER_VARIATIONS, cross_section, shower_weights, start_pythia
from touchneedle.toys.tau_pair_record import MAX_JETS, tau_pair_columns

__all__ = ["PROCESSES", "HiggsTautauPythia", "HiggsTautauPythiaConfig"]

NAME = "higgs_tautau"
BATCH = 500
NORMALS = ("normal_hadron", "normal_met_x", "normal_met_y", *(f"normal_jet{k}" for k in range(MAX_JETS)))
# Relative precision 1 / 8192: far below any resolution, and half the size.
MANTISSA_BITS = 12

HADRONS = "111 130 211 221 223 310 311 321"
# One tau decays to a lepton and the other to hadrons, in every event; each charge has its half of the events.
HALVES = (
    ("15:onMode=off", "15:onPosIfAny=11 13", f"15:onNegIfAny={HADRONS}"),
    ("15:onMode=off", "15:onNegIfAny=11 13", f"15:onPosIfAny={HADRONS}"),
)
WHOLE: tuple[tuple[str, ...], ...] = ((),)
HIGGS = ("25:m0=125.", "25:onMode=off", "25:onIfMatch=15 -15")
LEPTONIC_W = ("24:onMode=off", "24:onIfAny=11 13 15")
# Pythia's full spin correlations of Z -> tau tau take nine times as long. Both taus have the mean polarisation of those at the Z
# instead, and no correlation beyond it.
FIXED_POLARISATION = ("TauDecays:mode=3", "TauDecays:tauPolarization=-0.15")
PROCESSES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "ggh": (("HiggsSM:gg2H=on", *HIGGS), HALVES),
    "vbf": (("HiggsSM:ff2Hff(t:WW)=on", "HiggsSM:ff2Hff(t:ZZ)=on", *HIGGS), HALVES),
    "ztautau": (
        ("WeakSingleBoson:ffbar2gmZ=on", "PhaseSpace:mHatMin=60.", "23:onMode=off", "23:onIfAny=15", *FIXED_POLARISATION),
        HALVES,
    ),
    "ttbar": (("Top:gg2ttbar=on", "Top:qqbar2ttbar=on", *LEPTONIC_W), WHOLE),
    "diboson": (("WeakDoubleBoson:ffbar2WW=on", *LEPTONIC_W), WHOLE),
}


@dataclass
class HiggsTautauPythiaConfig:
    """Options: the shares of the generated events. Of Higgs events one in four is selected, of Z events one in eleven.

    Attributes:
        ggh: share of gg -> H -> tau tau.
        vbf: share of H -> tau tau from vector-boson fusion.
        ztautau: share of Z/gamma* -> tau tau above 60 GeV.
        ttbar: share of top pairs, both W to leptons.
        diboson: share of W pairs, both to leptons.
    """

    ggh: float = 0.08
    vbf: float = 0.05
    ztautau: float = 0.62
    ttbar: float = 0.15
    diboson: float = 0.10


class HiggsTautauPythia:
    """Events with a lepton of pt > 20 GeV and a hadronic tau of pt > 18 GeV within abs(eta) < 2.5, of opposite charges.

    Columns: the objects of `touchneedle.toys.tau_pair_record` (jets from 15 GeV on), frozen standard normals for the measurement
    of the tau (``normal_hadron``), of jets (``normal_jet0`` to ``normal_jet5``) and of the soft missing momentum
    (``normal_met_x``, ``normal_met_y``), log weights of the shower's scale (``isr_down``, ``isr_up``), and ``process``, the place
    in `PROCESSES`. Numbers have 12 bits of precision.

    Cross-sections are of leading order, without the branching ratios of taus: sizes to recognise, not yields.
    """

    Config = HiggsTautauPythiaConfig
    version: ClassVar[str] = "1"
    packages: ClassVar[tuple[str, ...]] = ("pythia8mc", "fastjet", "awkward", "numpy")
    extra: ClassVar[str] = "hep"

    def __init__(self, config: HiggsTautauPythiaConfig) -> None:
        shares = asdict(config)
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"generator {NAME}: option {name}: expected a share between 0 and 1; got {share:g}")
        if abs(sum(shares.values()) - 1) > 1e-9:
            raise InputError(f"generator {NAME}: expected shares that sum to 1; got {', '.join(f'{k}={v:g}' for k, v in shares.items())}")
        self.config = config

    def chunk(self, n: int, seed: np.random.SeedSequence) -> Chunk:
        """``n`` generated events, about one in eight of which is selected; process after process."""
        parts: list[dict[str, NDArray[Any]]] = []
        sections: dict[str, CrossSection] = {}
        counts = split_evenly(n, list(asdict(self.config).values()))
        for label, (name, (settings, halves)) in enumerate(PROCESSES.items()):
            sizes = split_evenly(counts[label], [1 / len(halves)] * len(halves))
            found = []
            for half, size in enumerate(sizes):
                child = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, label, half))
                columns, section = generate(size, (*settings, *halves[half]), child)
                parts.append(columns | {"process": np.full(len(columns["met_x"]), label, dtype=np.int8)})
                found.append(section)
            sections[name] = _mean(found)
        return Chunk({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, sections)


def split_evenly(n: int, shares: list[float]) -> list[int]:
    """``n`` in whole parts, as close to the shares as their running sum allows."""
    ends = np.round(n * np.cumsum(shares)).astype(int)
    return np.diff(ends, prepend=0).tolist()


def generate(n: int, settings: tuple[str, ...], seed: np.random.SeedSequence) -> tuple[dict[str, NDArray[Any]], CrossSection]:
    """Columns of the selected ones of ``n`` generated events, and their cross-section."""
    pythia = start_pythia(NAME, (*settings, "PartonLevel:MPI=off", *SHOWER_VARIATIONS), seed)
    parts = list(_batches(pythia, n))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    normals = np.random.default_rng(seed).standard_normal((len(columns["met_x"]), len(NORMALS)))
    for k in range(MAX_JETS):
        normals[columns[f"jet{k}_pt"] == 0, NORMALS.index(f"normal_jet{k}")] = 0
    columns |= dict(zip(NORMALS, normals.T, strict=True))
    return {name: rounded(values) for name, values in columns.items()}, cross_section(pythia)


def rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """To `MANTISSA_BITS` binary digits: the zeros that follow take no space when compressed."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissa, MANTISSA_BITS)), exponent - MANTISSA_BITS).astype(np.float32)


def _batches(pythia: Any, n: int) -> Iterator[dict[str, NDArray[np.float64]]]:
    """Columns batch by batch; one event is made for a cross-section where none is wanted."""
    for start in range(0, max(n, 1), BATCH):
        batch = pythia.nextBatch(max(1, min(BATCH, n - start)))
        chosen, columns = tau_pair_columns(batch.prt)
        columns |= {name: values[chosen] for name, values in shower_weights(pythia, batch).items()}
        yield {name: values[chosen < n - start] for name, values in columns.items()}


def _mean(sections: list[CrossSection]) -> CrossSection:
    """Of independent estimates of the same number."""
    values = np.array([(section.pb, section.stderr) for section in sections])
    return CrossSection(pb=float(values[:, 0].mean()), stderr=float(np.linalg.norm(values[:, 1]) / len(values)))
