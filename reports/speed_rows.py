"""Measured speeds: rows beside the records of a results folder, ``<results>/speed/*.json``, as ``make bench`` writes them."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from touchneedle.conf.errors import InputError

SPEED = Path("speed")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Speed:
    """One measured number beside what is wanted of it.

    Attributes:
        topic: what is made fast, such as ``training step``.
        what: what was measured, such as ``spline_flow, compiled``.
        against: what it was measured against, in the same run; "" for an absolute number.
        standard_error: over rounds; None for a number that was measured once.
        wanted: the target; None for a number that explains others.
        better: whether the number should be at least or at most what is wanted.
        note: where the time goes and what the floor is, above all where a target is missed.
    """

    topic: str
    what: str
    value: FiniteFloat
    standard_error: Annotated[FiniteFloat, Ge(0)] | None
    against: str = ""
    wanted: FiniteFloat | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = "times"
    note: str = ""
    machine: dict[str, str | int] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.wanted is None:
            return None
        return self.value >= self.wanted if self.better == "higher" else self.value <= self.wanted


_ROWS = TypeAdapter(list[Speed])


def speed_files(folder: Path) -> list[Path]:
    """The tables of a results folder, by name; none if nothing was measured."""
    return sorted((Path(folder) / SPEED).glob("*.json"))


def read_speeds(path: Path) -> list[Speed]:
    """The rows of one table; raises `InputError` if it is missing or corrupt."""
    try:
        return _ROWS.validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"speeds {path}: expected a table of measured speeds of this version (run make bench again)") from error
