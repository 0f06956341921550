"""The history of generated tau pairs: what `touchneedle data make higgs_tautau` wrote of them, as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.generated import Manifest, read_generated
from touchneedle.toys.higgs_tautau_pythia import NORMALS, PROCESSES
from touchneedle.toys.tau_pair_features import Momentum, TauPair
from touchneedle.toys.tau_pair_record import MAX_JETS
from touchneedle.toys.tau_pair_response import TruePair

__all__ = ["LATENT", "NAMES", "History", "read_sample", "with_weight"]

NAMES = tuple(PROCESSES)
OBJECTS = ("lepton", "hadron", *(f"jet{k}" for k in range(MAX_JETS)))
MOMENTA = tuple(f"{name}_{part}" for name in OBJECTS for part in ("pt", "eta", "phi"))
SHOWER = ("isr_down", "isr_up")
LATENT = (*MOMENTA, "met_x", "met_y", "soft_et", *NORMALS, *SHOWER)


class History(NamedTuple):
    """What is known of n events.

    Attributes:
        true: objects before the detector, and its frozen latents.
        isr_down, isr_up: log weights of the shower's scale (n,).
        weight: nominal weight of the event where it is selected (n,).
        label: process (n,).
    """

    true: TruePair
    isr_down: Tensor
    isr_up: Tensor
    weight: Tensor
    label: Tensor

    @classmethod
    def of(cls, base: Tensor, label: Tensor) -> History:
        """From the columns of `LATENT` and the weight (n, b)."""
        columns = dict(zip(LATENT, base.unbind(-1), strict=False))

        def momentum(name: str) -> Momentum:
            return Momentum(*(columns[f"{name}_{part}"] for part in ("pt", "eta", "phi")))

        jets = Momentum(*(torch.stack(parts, -1) for parts in zip(*(momentum(f"jet{k}") for k in range(MAX_JETS)), strict=True)))
        none = torch.zeros_like(columns["met_x"])
        objects = TauPair(momentum("lepton"), momentum("hadron"), jets, columns["met_x"], columns["met_y"], none, none)
        true = TruePair(objects, columns["soft_et"], torch.stack([columns[name] for name in NORMALS], -1))
        return cls(true, columns["isr_down"], columns["isr_up"], base[:, -1], label)


def read_sample(folder: str | Path) -> tuple[NDArray[np.float32], Tensor, Manifest]:
    """Columns of `LATENT` (n, b), processes (n,) and manifest of a data set; `InputError` where it lacks a column or a process."""
    columns, manifest = read_generated(folder, "higgs_tautau")
    missing = [name for name in (*LATENT, "process") if name not in columns]
    if missing:
        raise InputError(f"data set {folder}: no column {missing[0]!r}; its columns are {', '.join(columns)}")
    for process, name in enumerate(NAMES):
        if not (columns["process"] == process).any():
            raise InputError(f"data set {folder}: expected events of every process; there are none of {name}")
    rows = np.stack([columns[name].astype(np.float32) for name in LATENT], axis=1)
    return rows, torch.from_numpy(columns["process"].astype(np.int64)), manifest


def with_weight(rows: NDArray[np.float32], label: Tensor) -> Tensor:
    """The same columns and a weight of 1, float64 (n, b + 1); the shower's weights are divided by their mean in each process."""
    base = torch.from_numpy(np.column_stack([rows, np.ones(len(rows))])).double()
    for column in (LATENT.index(name) for name in SHOWER):
        for process in range(len(NAMES)):
            chosen = label == process
            base[chosen, column] -= base[chosen, column].exp().mean().log()
    return base
