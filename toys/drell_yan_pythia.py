"""Pythia's pp -> gamma*/Z -> mu mu at 13 TeV with initial- and final-state showers: the events of `drell_yan_angular_mc`.

Pythia 8.3 (Bierlich et al. 2022, arXiv:2203.11601) is under the GPL: it is imported when events are generated, and
nowhere else. No multiple interactions and no hadrons, which muons do not feel.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.drell_yan_matrix_element import M_Z, SINE_ON_SHELL
from touchneedle.toys.generated import Chunk, CrossSection

__all__ = ["DrellYanPythia", "DrellYanPythiaConfig"]

LARGEST_SEED = 900_000_000
BATCH = 5_000
PB_PER_MB = 1e9
MIN_PT, MAX_ETA, MASSES = 20.0, 2.4, (60.0, 120.0)
# The scale of the strong coupling in the initial-state shower, up and down: three sigmas of the nuisance.
SCALES = {"isr_down": 0.5, "isr_up": 2.0}
SETTINGS = (
    "Print:quiet=on",
    "Random:setSeed=on",
    "Beams:eCM=13000.",
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
    "UncertaintyBands:doVariations=on",
    "UncertaintyBands:List={" + ", ".join(f"{name} isr:muRfac={scale}" for name, scale in SCALES.items()) + "}",
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
        pythia = self._start(seed)
        normals = np.random.default_rng(seed).standard_normal((n, 2))
        parts = [_columns(pythia, pythia.nextBatch(min(BATCH, n - start))) for start in range(0, n, BATCH)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        columns |= {"normal_minus": normals[:, 0], "normal_plus": normals[:, 1]}
        info = pythia.infoPython()
        cross_section = CrossSection(pb=info.sigmaGen() * PB_PER_MB, stderr=info.sigmaErr() * PB_PER_MB)
        return Chunk(_selected(columns), {"all": cross_section})

    def _start(self, seed: np.random.SeedSequence) -> Any:
        pythia = import_module("pythia8mc").Pythia("", False)
        for setting in (*SETTINGS, f"Random:seed={pythia_seed(seed)}"):
            if not pythia.readString(setting):
                raise InputError(f"generator drell_yan_angular_mc: Pythia does not know the setting {setting}")
        # By force: Pythia's own range ends at 0.225 and 0.240.
        pythia.settings.parm("StandardModel:sin2thetaWbar", self.config.sin2theta_eff, True)
        if not pythia.init():
            raise InputError("generator drell_yan_angular_mc: Pythia does not start with these options")
        return pythia


def pythia_seed(seed: np.random.SeedSequence) -> int:
    """A seed in Pythia's range, 1 to 9e8."""
    return 1 + int(seed.generate_state(1, np.uint64)[0] % LARGEST_SEED)


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
    weights, names = array(info.weights), _weight_names(pythia)
    columns |= {name: np.log(weights[:, names.index(name)]) for name in SCALES}
    final = particles[particles.status > 0]
    azimuth = {}
    for name, code in (("minus", 13), ("plus", -13)):
        momentum = awkward.firsts(final[final.id == code].p)
        px, py, pz = array(momentum.px), array(momentum.py), array(momentum.pz)
        columns |= {f"pt_{name}": np.hypot(px, py), f"eta_{name}": np.arcsinh(pz / np.hypot(px, py))}
        azimuth[name] = np.arctan2(py, px)
    turn = azimuth["minus"] - azimuth["plus"]
    return columns | {"delta_phi": np.remainder(turn + np.pi, 2 * np.pi) - np.pi}


def _weight_names(pythia: Any) -> list[str]:
    info = pythia.infoPython()
    return [info.weightNameByIndex(index) for index in range(info.numberOfWeights())]


def _selected(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The events within the acceptance, in float32 (the flavour in one byte)."""
    eta, pt = [columns[f"eta_{name}"] for name in ("minus", "plus")], [columns[f"pt_{name}"] for name in ("minus", "plus")]
    mass = np.sqrt(2 * pt[0] * pt[1] * (np.cosh(eta[0] - eta[1]) - np.cos(columns["delta_phi"])))
    passed = (np.minimum(*pt) > MIN_PT) & (np.maximum(*np.abs(eta)) < MAX_ETA) & (mass > MASSES[0]) & (mass < MASSES[1])
    kinds = {"flavour": np.int8}
    return {name: values[passed].astype(kinds.get(name, np.float32)) for name, values in columns.items()}
