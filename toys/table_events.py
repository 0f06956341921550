"""The events of `event_table` at nominal: weights that sum to the yields, and what other weights and features are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events
from touchneedle.toys.event_file import EventColumns
from touchneedle.toys.table_options import is_varied

if TYPE_CHECKING:
    from touchneedle.toys.event_table import EventTableConfig

__all__ = ["table_events"]


def table_events(config: EventTableConfig, columns: EventColumns, nominal: Tensor) -> Events:
    """All events at theta_0 (p,); their base is (w_0, w_down 1, w_up 1, .. , inputs), with w_0 also where the event is not selected.

    Raises `InputError` for a process whose selected weights have no positive sum.
    """
    weights = np.concatenate([columns.weight[:, None], columns.other_weights], axis=1)
    for j, variation in enumerate(config.variations.values()):
        varied = np.array([is_varied(variation, process) for process in columns.processes])[columns.label]
        pair = slice(1 + 2 * j, 3 + 2 * j)
        weights[:, pair] = np.where(varied[:, None], weights[:, pair], weights[:, :1])
    weights *= _to_yields(config, columns)[columns.label, None]
    return Events(
        x=torch.from_numpy(columns.x),
        theta=nominal.repeat(len(columns.x), 1),
        weight=torch.from_numpy(np.where(columns.selected, weights[:, 0], 0.0)),
        label=torch.from_numpy(columns.label),
        base=torch.from_numpy(np.concatenate([weights, columns.inputs], axis=1)),
    )


def _to_yields(config: EventTableConfig, columns: EventColumns) -> NDArray[np.float64]:
    """Factor (k,) from the sum of a process's selected weights to its yield, which is that sum unless another is given."""
    sums = np.bincount(columns.label, np.where(columns.selected, columns.weight, 0.0), minlength=len(columns.processes))
    for process, found in zip(columns.processes, sums, strict=True):
        if not found > 0:
            raise InputError(
                f"event file {config.path}: column {config.weight!r}: process {process!r} has a yield of {found:g}; "
                "expected a positive sum of weights"
            )
    return np.array([config.yields.get(p, found) / found for p, found in zip(columns.processes, sums, strict=True)])
