"""What theta does to the events of `event_table`: other weights, samples, features and selection. The factors of rates stand elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from touchneedle.conf.errors import InputError
from touchneedle.toys.base import Events, Parameter, ParameterSpace
from touchneedle.toys.event_query import EventQuery
from touchneedle.toys.sample_variations import SampleVariations
from touchneedle.toys.weight_variations import varied_weights
from touchneedle.toys.yield_surface import YieldSurface, reach

__all__ = ["TableShapes", "origin"]

Shift = Callable[[dict[str, Tensor], dict[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class TableShapes:
    """Events as `table_events` makes them, at any theta (n, p).

    Attributes:
        name: of the toy, for its errors.
        query: which inputs, features and selection there are.
        reweighting: names of the nuisances that are weight columns.
        morphing: names of those that are samples.
        shifts: parameters that move stored columns, by ``shift``.
        n_processes: k.
    """

    name: str
    query: EventQuery
    space: ParameterSpace
    reweighting: tuple[str, ...]
    morphing: tuple[str, ...]
    shifts: tuple[Parameter, ...]
    shift: Shift
    n_processes: int

    @cached_property
    def columns(self) -> list[int]:
        """Columns of theta that change more than the rates."""
        return self._columns(self.reweighting) + self._columns(self.morphing) + self._shifting

    @property
    def n_weights(self) -> int:
        """Columns of ``base`` that are weights; then come the number of the sample and the inputs."""
        return 1 + 2 * len(self.reweighting)

    def sample(self, events: Events) -> Tensor:
        """The number of each event's sample (n,)."""
        return origin(events)[0][:, self.n_weights].long()

    def own_weight(self, events: Events, theta: Tensor) -> Tensor:
        """Weights (n,) of events within their own samples."""
        base, _ = origin(events)
        weight = varied_weights(base[:, : self.n_weights], theta[:, self._columns(self.reweighting)])
        return torch.where(self.moved(events, theta)[1], weight, 0.0) if self.shifts else weight

    def weight(self, events: Events, theta: Tensor, samples: SampleVariations) -> Tensor:
        """Weights (n,) of events in the mixture of the samples."""
        weight = self.own_weight(events, theta)
        if not self.morphing:
            return weight
        return weight * samples.factors(self.sample(events), origin(events)[1], theta[:, self._columns(self.morphing)])

    def moved(self, events: Events, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, d) of shifted events, and whether they are selected (n,); what is not may be undefined, and is a number."""
        stored = dict(zip(self.query.inputs, origin(events)[0][:, self.n_weights + 1 :].unbind(-1), strict=True))
        values = {parameter.name: theta[:, k] for parameter, k in zip(self.shifts, self._shifting, strict=True)}
        try:
            shifted = self.shift(dict(stored), values)
            stored |= {name: shifted.get(name, stored[name]) for name in (*stored, *shifted)}
        except KeyError as error:
            raise InputError(f"toy {self.name}: _shift uses {error}, which is not read: name it in shift_columns") from error
        columns, kept = self.query.recipe.evaluate({name: value.numpy() for name, value in stored.items()})
        selected = torch.from_numpy(kept)
        x = torch.stack([torch.from_numpy(columns[name]).float() for name in self.query.chosen], -1)
        wrong = int((selected & ~x.isfinite().all(-1)).sum())
        if wrong:
            raise InputError(f"toy {self.name}: expected finite features of shifted events; {wrong} of {len(x)} selected are not")
        return torch.where(selected.unsqueeze(-1), x, x.nan_to_num()), selected

    def ever_selected(self, events: Events) -> Tensor:
        """Whether nominal shifts, or those at any of their edges, select each event (n,)."""
        if not self.shifts:
            return torch.ones(len(events), dtype=torch.bool)
        theta, kept = events.theta.clone(), torch.zeros(len(events), dtype=torch.bool)
        for point in itertools.product(*((*reach(parameter), parameter.nominal) for parameter in self.shifts)):
            theta[:, self._shifting] = torch.tensor(point, dtype=torch.float64)
            kept |= self.moved(events, theta)[1]
        return kept

    def sums(self, events: Events) -> Tensor:
        """Sums of nominal weights within each sample (1 + 2 q, k)."""
        shape = 1 + 2 * len(self.morphing), self.n_processes
        key = self.sample(events) * self.n_processes + origin(events)[1]
        return torch.bincount(key, self.own_weight(events, events.theta), minlength=shape[0] * shape[1]).reshape(shape)

    def yields(self, events: Events, samples: SampleVariations) -> YieldSurface:
        """The yields of processes as functions of theta[:, columns]."""
        _, label = origin(events)

        def sums(values: Tensor) -> Tensor:
            theta = self.space.nominal.clone()
            theta[self.columns] = values
            weight = self.weight(events, theta.expand(len(events), -1), samples)
            return torch.bincount(label, weight, minlength=self.n_processes)

        parameters = [self.space.parameters[k] for k in self.columns]
        return YieldSurface.tabulate(parameters, [k in self._shifting for k in self.columns], sums)

    @cached_property
    def _shifting(self) -> list[int]:
        return self._columns(tuple(parameter.name for parameter in self.shifts))

    def _columns(self, names: tuple[str, ...]) -> list[int]:
        return [self.space.index(name) for name in names]


def origin(events: Events) -> tuple[Tensor, Tensor]:
    """Base columns (weights, number of the sample, inputs) and process labels; raises `InputError` for events without."""
    if events.base is None or events.label is None:
        raise InputError("event_table: expected events of its pools, with base and process labels; these have none")
    return events.base, events.label
