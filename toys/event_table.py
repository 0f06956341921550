"""A user's own events, read from parquet or ROOT files: a mixture of processes with the signal strength as parameter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, FiniteToy, Parameter, ParameterSpace, Split, ToySpec, check_matrix, expand_theta
from touchneedle.toys.event_file import read_events
from touchneedle.toys.sample_variations import SampleVariations
from touchneedle.toys.table_events import table_events
from touchneedle.toys.table_options import (
    EventTableConfig,
    check_options,
    check_processes,
    event_query,
    norm_name,
    sample_variations,
    table_features,
    table_parameters,
    weight_variations,
)
from touchneedle.toys.table_shapes import TableShapes, origin

__all__ = ["EventTable", "EventTableConfig", "hash_fraction"]


class EventTable(FiniteToy):
    """p(x|theta) proportional to mu S p_S(x|nu) + sum_b norm_b B_b p_b(x|nu), known only through weighted events.

    Variations reweight the events (`varied_weights`) or morph between samples (`SampleVariations`); the rates follow (`YieldSurface`).
    Events of varied samples are in the pools, with weight 0 at nominal; a shifted copy of an event counts as another one
    unless ``event_id`` tells that it is not. An event's split is decided by a hash of that number, or else of its own features,
    before anything is resampled, so that copies, or else exact duplicates, never straddle training and test. Within a split the
    weights of each process are scaled up to its whole yield.

    Nuisances that shift features are declared in Python, by a subclass that says how the stored columns move. Derived features and
    selection are computed anew from what has moved, so that events enter and leave: pools hold all that are selected at nominal or at
    an edge of the shifts. ``rates`` follows with the parabola through the selected yields, or is overridden. A file of its own,
    for ``--plugin``::

        from touchneedle.toys.base import GaussianConstraint, Normal, Parameter, register_toy
        from touchneedle.toys.event_table import EventTable


        @register_toy("scaled_table")
        class ScaledTable(EventTable):
            name = "scaled_table"
            shifts = (Parameter("tes", "nuisance", 1.0, (0.9, 1.1), Normal(1.0, 0.016), GaussianConstraint(0.01)),)
            shift_columns = ("tau_pt",)

            def _shift(self, columns, theta):
                return {"tau_pt": columns["tau_pt"] * theta["tes"]}

    Attributes:
        name: name of the toy.
        shifts: parameters that move stored columns.
        shift_columns: stored columns that `_shift` needs, besides those of features and formulas.
    """

    Config = EventTableConfig
    name: ClassVar[str] = "event_table"
    shifts: ClassVar[tuple[Parameter, ...]] = ()
    shift_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: EventTableConfig) -> None:
        check_options(config, [parameter.name for parameter in self.shifts])
        self.config = config
        self._query = event_query(config, moved=self.shift_columns if self.shifts else None)
        columns = read_events(self._query)
        check_processes(config, columns.processes)
        space, features = ParameterSpace(table_parameters(config) + self.shifts), table_features(config, columns)
        self.spec = ToySpec(self.name, f"1+sha256:{columns.digest}", space, features, columns.processes)
        weighted, sampled = tuple(weight_variations(config)), tuple(sample_variations(config))
        k = len(columns.processes)
        self._shapes = TableShapes(self.name, self._query, space, weighted, sampled, self.shifts, self._shift, k)
        events = table_events(config, columns, space)
        kept = self._shapes.ever_selected(events)
        everything = events[kept]
        self._samples = SampleVariations.measured(self._shapes.sums(everything))
        self._yields = self._shapes.yields(everything, self._samples)
        self.fit_events = max(1, round(self._yields.nominal.sum().item()))
        number = hash_fraction(columns.x if columns.event_id is None else columns.event_id[:, None])
        in_test = torch.from_numpy(number < config.test_fraction)[kept]
        self._pools: dict[Split, Events] = {
            "train": self._pool(everything, ~in_test, "train"),
            "test": self._pool(everything, in_test, "test"),
        }

    def rates(self, theta: Tensor) -> Tensor:
        """Selected yields of all files at theta (m, p), times mu for the signal and their norms for others: shape (m, k)."""
        theta = theta.double()
        return self._yields(theta[:, self._shapes.columns]) * self._factors(theta)

    def pool(self, split: Split) -> Events:
        """The events of one split; their weights sum to the nominal yield of every process."""
        return self._pools[split]

    def reweight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) at theta (p,) or (n, p) of events from a pool; 0 where a shifted event is not selected."""
        _, label = origin(events)
        theta = check_matrix("theta", expand_theta(theta, len(events)), self.spec.theta_dim)
        self.spec.parameters.check(theta)
        return self._shapes.weight(events, theta, self._samples) * self._factors(theta).gather(-1, label.unsqueeze(-1)).squeeze(-1)

    def _shift(self, columns: dict[str, Tensor], theta: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """Hook: the stored columns (n,) that move, at the values (n,) of the parameters in ``shifts``."""
        return {}

    def _move(self, events: Events, theta: Tensor) -> Tensor:
        return self._shapes.moved(events, theta)[0] if self.shifts else events.x

    def _factors(self, theta: Tensor) -> Tensor:
        """What the yields of each process are multiplied by at theta (m, p), shape (m, k)."""
        of, one = dict(zip(self.spec.parameters.names, theta.unbind(-1), strict=True)), torch.ones_like(theta[:, 0])
        factors = []
        for process in self.spec.processes:
            strength = of["mu"] if process in self.config.signal else one
            factors.append(strength * of[norm_name(process)] if process in self.config.norms else strength)
        return torch.stack(factors, -1)

    def _pool(self, everything: Events, chosen: Tensor, split: Split) -> Events:
        """One split, with the weights of every sample and process scaled to its whole yield."""
        events = everything[chosen]
        if not len(events):
            raise InputError(
                f"event file {self.config.path}: expected events in the {split} split; all {len(everything)} fall into the other; "
                f"change test_fraction ({self.config.test_fraction:g})"
            )
        whole, part = self._shapes.sums(everything), self._shapes.sums(events)
        for sample, process in ((whole > 0) & ~(part > 0)).nonzero().tolist():
            raise InputError(
                f"event file {self.config.path}: process {self.spec.processes[process]!r} has a yield of {part[sample, process]:g} in the "
                f"{split} split and {whole[sample, process]:g} in all; expected the same sign: change test_fraction or merge processes"
            )
        base, label = origin(events)
        scale = (whole / part)[self._shapes.sample(events), label]
        base[:, : self._shapes.n_weights] *= scale.unsqueeze(-1)
        return replace(events, weight=events.weight * scale)


def hash_fraction(x: NDArray[np.float32] | NDArray[np.int64]) -> NDArray[np.float64]:
    """A number between 0 and 1 for each row of x (n, d), from the BLAKE2b hash of its bytes; -0 counts as 0."""
    rows = np.ascontiguousarray(x + x.dtype.type(0))
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8") / 2.0**64
