"""The events of `event_table` at nominal: weights that sum to the yields, and what other weights and features are made of."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, ParameterSpace
from touchneedle.toys.event_file import EventColumns
from touchneedle.toys.sample_variations import sample_number
from touchneedle.toys.table_options import EventTableConfig, is_varied, sample_variations, weight_variations
from touchneedle.toys.weight_variations import mirrored

__all__ = ["table_events"]


def table_events(config: EventTableConfig, columns: EventColumns, space: ParameterSpace) -> Events:
    """All events at theta_0 (p,); their base is (w_0, w_down 1, w_up 1, .. , number of the sample, inputs).

    w_0 is the weight in an event's own sample, selected or not; ``weight`` is that at nominal, 0 in varied samples.

    Raises `InputError` for a process whose selected weights have no positive sum.
    """
    weights = np.concatenate([columns.weight[:, None], columns.other_weights], axis=1)
    for j, variation in enumerate(weight_variations(config).values()):
        varied = np.array([is_varied(variation, process) for process in columns.processes])[columns.label]
        pair = slice(1 + 2 * j, 3 + 2 * j)
        down, up = weights[:, pair].T
        if variation.down is None:
            down[:] = mirrored(weights[:, 0], up)
        if variation.up is None:
            up[:] = mirrored(weights[:, 0], down)
        weights[:, pair] = np.where(varied[:, None], weights[:, pair], weights[:, :1])
    weights *= _to_yields(config, columns)[columns.label, None]
    return Events(
        x=torch.from_numpy(columns.x),
        theta=space.nominal.repeat(len(columns.x), 1),
        weight=torch.from_numpy(np.where(columns.selected & (columns.sample == 0), weights[:, 0], 0.0)),
        label=torch.from_numpy(columns.label),
        generated_at=_generated_at(config, columns, space) if sample_variations(config) else None,
        base=torch.from_numpy(np.concatenate([weights, columns.sample[:, None], columns.inputs], axis=1)),
    )


def _generated_at(config: EventTableConfig, columns: EventColumns, space: ParameterSpace) -> Tensor:
    """Where the sample of each event is in theta, (n, p)."""
    theta = space.nominal.repeat(len(columns.x), 1)
    for j, name in enumerate(sample_variations(config)):
        for side in (-1, 1):
            theta[torch.from_numpy(columns.sample == sample_number(j, side)), space.index(name)] = side
    return theta


def _to_yields(config: EventTableConfig, columns: EventColumns) -> NDArray[np.float64]:
    """Factor (k,) from the sum of a process's selected weights to its yield, which is that sum unless another is given."""
    k = len(columns.processes)
    sums = np.bincount(columns.sample * k + columns.label, np.where(columns.selected, columns.weight, 0.0), minlength=k)
    # A process need not be in every sample.
    for number in np.unique(columns.sample * k + columns.label):
        if not sums[number] > 0:
            raise InputError(
                f"event file {config.path}: column {config.weight!r}: process {columns.processes[number % k]!r} has a yield of "
                f"{sums[number]:g}{' in a varied sample' if number >= k else ''}; expected a positive sum of weights"
            )
    return np.array([config.yields.get(p, found) / found for p, found in zip(columns.processes, sums[:k], strict=True)])
