"""Points with one or two parameters moved: where nuisances are probed alone (at their anchors) and together (off them)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from touchneedle.benchmark.metrics.closure_points import ClosurePoint
from touchneedle.toys.base import ParameterSpace

MAX_NUISANCES = 20
MAX_PAIRS = 3
OFF_ANCHOR = 1.5
SIGNS = ((1, 1), (1, -1))


@dataclass(frozen=True)
class Moved:
    """Nominal with the parameters in ``columns`` moved: theta (p,)."""

    columns: tuple[int, ...]
    theta: Tensor
    space: ParameterSpace

    @property
    def at(self) -> dict[str, Any]:
        """Where a row of this point holds."""
        names = [self.space.names[column] for column in self.columns]
        where = ", ".join(f"{name}={float(self.theta[column]):g}" for name, column in zip(names, self.columns, strict=True))
        return {"theta": where, **({"parameter": names[0]} if len(names) == 1 else {})}


def anchors(space: ParameterSpace) -> list[Moved]:
    """The first 20 nuisances, each alone at its lowest and at its highest anchor."""
    columns = space.nuisance[:MAX_NUISANCES]
    return [_moved(space, {column: value}) for column in columns for value in _ends(space, column)]


def joint_points(space: ParameterSpace) -> list[Moved]:
    """The first three pairs of nuisances, at 1.5 times their anchors with equal and with opposite signs."""
    pairs = list(itertools.combinations(space.nuisance, 2))[:MAX_PAIRS]
    return [_moved(space, {j: _beyond(space, j, a), k: _beyond(space, k, b)}) for j, k in pairs for a, b in SIGNS]


def interacting_pairs(space: ParameterSpace, points: list[ClosurePoint]) -> list[tuple[Moved, Moved, Moved]]:
    """(both, first alone, second alone): the first parameter of interest with nuisances, then nuisances; three pairs of each.

    The parameter of interest goes where the first closure point has it, nuisances to their highest anchors.
    """
    of_interest = [(space.interest[0], column) for column in space.nuisance[:MAX_PAIRS]]
    pairs = of_interest + list(itertools.combinations(space.nuisance, 2))[:MAX_PAIRS]
    value = {column: _ends(space, column)[-1] for column in space.nuisance}
    value |= {column: float(points[1].theta[column]) for column in space.interest}
    chosen = [({j: value[j], k: value[k]}, {j: value[j]}, {k: value[k]}) for j, k in pairs]
    return [(_moved(space, both), _moved(space, first), _moved(space, second)) for both, first, second in chosen]


def _ends(space: ParameterSpace, column: int) -> tuple[float, float]:
    values = space.parameters[column].template_anchors
    return _inside(space, column, min(values)), _inside(space, column, max(values))


def _beyond(space: ParameterSpace, column: int, sign: int) -> float:
    nominal = space.parameters[column].nominal
    end = _ends(space, column)[(1 + sign) // 2]
    return _inside(space, column, nominal + OFF_ANCHOR * (end - nominal))


def _inside(space: ParameterSpace, column: int, value: float) -> float:
    low, high = space.parameters[column].bounds
    return min(max(value, low), high)


def _moved(space: ParameterSpace, values: dict[int, float]) -> Moved:
    theta = space.nominal.clone()
    for column, value in values.items():
        theta[column] = value
    return Moved(tuple(values), theta, space)
