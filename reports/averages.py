"""One metric of every contestant of a board, averaged over the toys that all of them share: statements about these toys, not others.

For toys t with mean m_t over seeds and standard error s_t: mean over toys, error sqrt(sum s_t^2) / N; no error where a toy has none, such
as the time of a single run. Sizes of numbers that should be zero are averaged as sizes, seed by seed, so that signs do not cancel; times
as logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from touchneedle.reports.aggregate import Cell, combine
from touchneedle.reports.boards import Board, Contestant, ToyKey
from touchneedle.reports.ranking import HUGE, badness_of
from touchneedle.reports.rows import Row


@dataclass(frozen=True)
class Average:
    """A contestant's mean over toys, with its standard error if there is one."""

    label: str
    value: float
    stderr: float | None
    toys: tuple[str, ...]

    def same_as(self, other: Average, sigmas: float = 2.0) -> bool:
        """Whether two averages lie within ``sigmas`` combined standard errors."""
        return abs(self.value - other.value) <= sigmas * math.hypot(self.stderr or 0.0, other.stderr or 0.0)


def averages(board: Board, metric: str, *, size: int | None = None, signed: bool = False, log: bool = False) -> list[Average]:
    """Averages of the contestants that have the metric on the toys where most of them have it.

    Taken are the nominal point and the parameter of interest; ``size`` is the number of events of a pseudo-experiment.
    ``signed`` keeps values as they are instead of their badness; ``log`` takes geometric means.
    """
    cells = {
        (one.key, toy): cell
        for one in board.contestants
        for toy in board.toys
        if (row := _row(board, one, toy)) is not None and (cell := _cell(row, metric, size, board.parameters[toy])) is not None
        if not log or (cell.value or 0.0) > 0
    }
    toys, keys = _shared(board, set(cells))
    found = [one for one in board.contestants if one.key in keys]
    return [_average(one.label, toys, [cells[one.key, toy] for toy in toys], signed or log, log) for one in found] if toys else []


def _row(board: Board, one: Contestant, toy: ToyKey) -> Row | None:
    entry = board.entries.get((one.key, toy))
    return entry.row if entry else None


def _cell(row: Row, metric: str, size: int | None, parameter: str) -> Cell | None:
    for cell in row.cells:
        if cell.metric != metric or cell.value is None or not abs(cell.value) < HUGE or cell.at.get("network") == "retrained":
            continue
        nominal = cell.at.get("point") in (None, 0) and cell.at.get("parameter") in (None, parameter)
        if nominal and (size is None or cell.at.get("n_events") in (None, size)):
            return cell
    return None


def _shared(board: Board, present: set[tuple[str, ToyKey]]) -> tuple[list[ToyKey], set[str]]:
    """Toys and contestants without a gap that rest on most runs; toys are tried in order of their runs."""
    runs = {(key, toy): len(board.entries[key, toy].seeds) for key, toy in present}
    toys = sorted(board.toys, key=lambda toy: (-sum(n for (_, other), n in runs.items() if other == toy), toy))
    most, best = 0, (list[ToyKey](), set[str]())
    for count in range(1, len(toys) + 1):
        keys = {one.key for one in board.contestants if all((one.key, toy) in present for toy in toys[:count])}
        size = sum(runs[key, toy] for key in keys for toy in toys[:count])
        if size > most and len(keys) > 1:
            most, best = size, (sorted(toys[:count]), keys)
    return best


def _average(label: str, toys: Sequence[ToyKey], cells: Sequence[Cell], signed: bool, log: bool) -> Average:
    pairs = [(cell.value or 0.0, cell.stderr or 0.0) if signed else _size(cell) for cell in cells]
    if log:
        pairs = [(math.log(value), error / value) for value, error in pairs]
    mean = math.fsum(value for value, _ in pairs) / len(pairs)
    error = math.sqrt(math.fsum(error**2 for _, error in pairs)) / len(pairs)
    value, scale = (math.exp(mean), math.exp(mean)) if log else (mean, 1.0)
    stated = all(cell.stderr is not None for cell in cells)
    return Average(label, value, scale * error if stated else None, tuple(name for name, _, _ in toys))


def _size(cell: Cell) -> tuple[float, float]:
    """Mean badness over the seeds, and its error."""
    present = [(badness_of(cell, seed.value), seed.stderr) for seed in cell.seeds if seed.value is not None and abs(seed.value) < HUGE]
    value, stderr = combine(present)
    return value or 0.0, stderr or 0.0
