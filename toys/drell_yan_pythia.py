"""Pythia's pp -> gamma*/Z -> mu mu at 13 TeV with initial- and final-state showers: the events of `drell_yan_angular_mc`.

Pythia is imported when events are generated (see `touchneedle.toys.pythia`). No multiple interactions and no hadrons,
which muons do not feel.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.drell_yan_matrix_element import M_Z, SINE_ON_SHELL
from touchneedle.toys.generated import Chunk
from touchneedle.toys.pythia import SHOWER_VARIATIONS, cross_section, shower_weights, start_pythia

__all__ = ["DrellYanPythia", "DrellYanPythiaConfig"]

BATCH = 5_000
MIN_PT, MAX_ETA, MASSES = 20.0, 2.4, (60.0, 120.0)
SETTINGS = (
    "WeakSingleBoson:ffbar2ffbar(s:gmZ)=on",
    "PhaseSpace:mHatMin=50.",
    "PhaseSpace:mHatMax=150.",
    "23:onMode=off",
    "23:onIfAny=13",
    f"23:m0={M_Z}",
    f"StandardModel:sin2thetaW={SINE_ON_SHELL}",
    "PartonLevel:MPI=off",
    "HadronLevel:all=off",
    # Photons that split would give a second pair of muons.
    "TimeShower:QEDshowerByGamma=off",
    *SHOWER_VARIATIONS,
)


@dataclass
class DrellYanPythiaConfig:
    """Options.

    Attributes:
        sin2theta_eff: effective weak mixing angle of the vector couplings.
    """

    sin2theta_eff: float = 0.2315


class DrellYanPythia:
    """True muons within pt > 20 GeV, abs(eta) < 2.4 and 60 < m < 120 GeV, with all that a weight at another theta needs.

    Columns: the hard process (``flavour``, ``hard_mass`` in GeV, ``hard_cosine`` of quark and mu-), log weights of the
    shower's scale (``isr_down``, ``isr_up``), the muons after radiation (``pt_minus``, ``pt_plus`` in GeV, ``eta_minus``,
    ``eta_plus``, ``delta_phi``) and a frozen standard normal for the measurement of each.
    """

    Config = DrellYanPythiaConfig
    version: ClassVar[str] = "1"
    packages: ClassVar[tuple[str, ...]] = ("pythia8mc", "awkward", "numpy")
    extra: ClassVar[str] = "hep"

    def __init__(self, config: DrellYanPythiaConfig) -> None:
        if not 0 < config.sin2theta_eff < 1:
            raise InputError(
                f"generator drell_yan_angular_mc: option sin2theta_eff: expected a value between 0 and 1; got {config.sin2theta_eff:g}"
            )
        self.config = config

    def chunk(self, n: int, seed: np.random.SeedSequence) -> Chunk:
        """``n`` generated events, about two in five of which are selected."""
        # By force: Pythia's own range ends at 0.225 and 0.240.
        forced = {"StandardModel:sin2thetaWbar": self.config.sin2theta_eff}
        pythia = start_pythia("drell_yan_angular_mc", SETTINGS, seed, forced)
        normals = np.random.default_rng(seed).standard_normal((n, 2))
        parts = [_columns(pythia, pythia.nextBatch(min(BATCH, n - start))) for start in range(0, n, BATCH)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        columns |= {"normal_minus": normals[:, 0], "normal_plus": normals[:, 1]}
        return Chunk(_selected(columns), {"all": cross_section(pythia)})


def _columns(pythia: Any, batch: Any) -> dict[str, NDArray[Any]]:
    """One row per generated event. The angle is taken from ``info``: the muons of the record are boosted by the shower."""
    awkward = import_module("awkward")

    def array(values: Any) -> NDArray[np.float64]:
        return awkward.to_numpy(values).astype(np.float64)

    info, particles = batch.info, batch.prt
    mass = array(info.mHat)
    incoming = particles.id[particles.status == -21][:, 0]
    columns = {
        "flavour": np.abs(awkward.to_numpy(incoming)).astype(np.int8),
        "hard_mass": mass,
        "hard_cosine": (array(info.tHat) - array(info.uHat)) / mass**2,
    }
    columns |= shower_weights(pythia, batch)
    final = particles[particles.status > 0]
    azimuth = {}
    for name, code in (("minus", 13), ("plus", -13)):
        momentum = awkward.firsts(final[final.id == code].p)
        px, py, pz = array(momentum.px), array(momentum.py), array(momentum.pz)
        columns |= {f"pt_{name}": np.hypot(px, py), f"eta_{name}": np.arcsinh(pz / np.hypot(px, py))}
        azimuth[name] = np.arctan2(py, px)
    turn = azimuth["minus"] - azimuth["plus"]
    return columns | {"delta_phi": np.remainder(turn + np.pi, 2 * np.pi) - np.pi}


def _selected(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The events within the acceptance, in float32 (the flavour in one byte)."""
    eta, pt = [columns[f"eta_{name}"] for name in ("minus", "plus")], [columns[f"pt_{name}"] for name in ("minus", "plus")]
    mass = np.sqrt(2 * pt[0] * pt[1] * (np.cosh(eta[0] - eta[1]) - np.cos(columns["delta_phi"])))
    passed = (np.minimum(*pt) > MIN_PT) & (np.maximum(*np.abs(eta)) < MAX_ETA) & (mass > MASSES[0]) & (mass < MASSES[1])
    kinds = {"flavour": np.int8}
    return {name: values[passed].astype(kinds.get(name, np.float32)) for name, values in columns.items()}
