"""What generators share of Pythia: starting it, seeds in its range, cross-sections, weights of its initial-state shower.

Pythia 8.3 (Bierlich et al. 2022, arXiv:2203.11601) is under the GPL: it is imported when events are generated, and
nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import CrossSection

LARGEST_SEED = 900_000_000
PB_PER_MB = 1e9
# The scale of the strong coupling in the initial-state shower, up and down: three sigmas of the nuisance.
SCALES = {"isr_down": 0.5, "isr_up": 2.0}
ISR_NODE = 3.0
# Weights are products of many ratios, some of them close to 0; every event needs a logarithm.
LEAST_WEIGHT = 1e-3
COMMON = ("Print:quiet=on", "Random:setSeed=on", "Beams:eCM=13000.")
SHOWER_VARIATIONS = (
    "UncertaintyBands:doVariations=on",
    "UncertaintyBands:List={" + ", ".join(f"{name} isr:muRfac={scale}" for name, scale in SCALES.items()) + "}",
)


def start_pythia(owner: str, settings: Sequence[str], seed: np.random.SeedSequence, forced: Mapping[str, float] | None = None) -> Any:
    """A started Pythia with ``settings``, and those ``forced`` beyond Pythia's own ranges; `InputError` if it refuses them."""
    pythia = import_module("pythia8mc").Pythia("", False)
    for setting in (*COMMON, *settings, f"Random:seed={pythia_seed(seed)}"):
        if not pythia.readString(setting):
            raise InputError(f"generator {owner}: Pythia does not know the setting {setting}")
    for name, value in (forced or {}).items():
        pythia.settings.parm(name, value, True)
    if not pythia.init():
        raise InputError(f"generator {owner}: Pythia does not start with these options")
    return pythia


def pythia_seed(seed: np.random.SeedSequence) -> int:
    """A seed in Pythia's range, 1 to 9e8."""
    return 1 + int(seed.generate_state(1, np.uint64)[0] % LARGEST_SEED)


def cross_section(pythia: Any) -> CrossSection:
    """Pythia's estimate from the events so far."""
    info = pythia.infoPython()
    return CrossSection(pb=info.sigmaGen() * PB_PER_MB, stderr=info.sigmaErr() * PB_PER_MB)


def shower_weights(pythia: Any, batch: Any) -> dict[str, NDArray[np.float64]]:
    """Log weights (n,) of a batch for the scales of `SCALES`, by name, of `LEAST_WEIGHT` at least; needs `SHOWER_VARIATIONS`."""
    info = pythia.infoPython()
    names = [info.weightNameByIndex(index) for index in range(info.numberOfWeights())]
    weights = import_module("awkward").to_numpy(batch.info.weights).astype(np.float64)
    return {name: np.log(weights[:, names.index(name)].clip(LEAST_WEIGHT)) for name in SCALES}


def shower_log_weight(down: Tensor, up: Tensor, isr: Tensor) -> Tensor:
    """Log weight of events at ``isr`` sigmas: the parabola through 0, ``down`` at -3 and ``up`` at 3; all broadcast."""
    step = isr / ISR_NODE
    return step * (up - down) / 2 + step.square() * (up + down) / 2
