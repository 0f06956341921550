"""What is made of the stored columns of events: derived features, and which events are selected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError
from touchneedle.toys.expressions import Expression, parse

__all__ = ["FeatureRecipe", "read_recipe"]

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureRecipe:
    """Formulas for derived features and for a selection, in the order in which they are evaluated; made by `read_recipe`.

    Attributes:
        derived: formula of each derived feature, which may name stored columns and features derived before it.
        selection: the condition that events must meet; None selects all.
    """

    derived: Mapping[str, Expression]
    selection: Expression | None

    def inputs(self, features: Iterable[str] = ()) -> tuple[str, ...]:
        """The stored columns that the formulas and ``features`` need, in order of appearance."""
        found = dict.fromkeys(name for name in features if name not in self.derived)
        for known, formula in self._formulas():
            found |= dict.fromkeys(name for name in formula.names if name not in known)
        return tuple(found)

    def check(self, stored: Iterable[str]) -> None:
        """Raise `InputError` for a formula of columns that are neither stored nor derived before it, and for a name that is stored."""
        stored = list(stored)
        for name in self.derived:
            if name in stored:
                raise InputError(f"derived feature {name!r}: a column of that name is stored already; choose another name")
        for known, formula in self._formulas():
            formula.check_names([*stored, *known])

    def evaluate(self, columns: Columns) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """The columns (n,) with the derived ones beside them, and whether each event is selected (n,)."""
        found = dict(columns)
        for name, formula in self.derived.items():
            found[name] = formula.evaluate(found)
        if self.selection is not None:
            return found, self.selection.evaluate(found)
        return found, np.ones(len(next(iter(found.values()))), dtype=bool)

    def _formulas(self) -> Iterator[tuple[set[str], Expression]]:
        """Each formula with the derived features that it may name."""
        known: set[str] = set()
        for name, formula in self.derived.items():
            yield set(known), formula
            known.add(name)
        if self.selection is not None:
            yield known, self.selection


def read_recipe(derived: Mapping[str, str], selection: str) -> FeatureRecipe:
    """The recipe in formulas; raises `InputError` for one that is no arithmetic, a selection that is no condition, an odd name."""
    for name in derived:
        if not name.isidentifier():
            raise InputError(f"derived feature {name!r}: expected a name of letters, digits and underscores")
    chosen = parse(selection) if selection else None
    if chosen is not None and not chosen.is_condition:
        raise InputError(f"selection {selection!r}: expected a condition, such as pt > 20; it is a number")
    return FeatureRecipe({name: parse(text) for name, text in derived.items()}, chosen)
