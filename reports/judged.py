"""Which numbers judge a family of metrics, and how bad each run is in them.

Every metric with a notion of better counts, whatever component it came from; left out are notes on how a number was obtained
and names that say what another one says better. Fits are judged by the parameter of interest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from touchneedle.reports.aggregate import Cell, SeedValue
from touchneedle.reports.ranking import UNCHECKED_NAMES, badness_of, place, target_of
from touchneedle.reports.rows import Row

FAMILIES = ("fit", "density", "calibration", "closure", "cost")
_COSTS = ("train_seconds", "log_ratio_microseconds", "fit_seconds", "parameters", "peak_memory_mb")
_NOTES = UNCHECKED_NAMES | {"minima", "training_spread"}
# A quantity counts once: each of these is left out where one of the others has a number.
_REPEATS: dict[str, tuple[str, ...]] = {
    "bias": ("bias_vs_oracle",),
    "information_gain": ("information_loss",),
    "kl_positive": ("kl",),
    "mean_score": ("bias_vs_oracle", "bias"),
    "pull_mean": ("bias_vs_oracle", "bias"),
    "worst_bias": ("bias_vs_oracle", "bias"),
    "worst_coverage": ("coverage_68", "coverage_95"),
}

Where = tuple[str, str]
Numbers = dict[Where, dict[int, float]]


@dataclass(frozen=True)
class Judged:
    """Badness of all runs on one toy, in all numbers that every contestant has.

    Attributes:
        owner: (r,) index of the contestant that each run belongs to.
        badness: (r, q) of each run in each number; infinite for a failed run.
        weight: (q,) each metric weighs the same, and so do the places of a metric; they add up to 1.
        metrics: names of the metrics that count.
        lacking: metrics that do not count because not everybody has them.
    """

    owner: NDArray[np.int64]
    badness: NDArray[np.float64]
    weight: NDArray[np.float64]
    metrics: tuple[str, ...]
    lacking: tuple[str, ...]


def numbers_of(row: Row, parameter: str, withheld: Mapping[Where, object]) -> dict[str, Numbers]:
    """What judges a row: family -> (metric, place) -> seed -> badness; only metrics with a number in some seed."""
    present = {cell.name for cell in row.cells if cell.value is not None}
    found: dict[str, Numbers] = {}
    for cell in row.cells:
        if not _counts(cell, parameter, present):
            continue
        where = (cell.metric, place(cell))
        if where not in withheld:
            found.setdefault(cell.family, {})[where] = {seed.seed: _badness(cell, seed) for seed in cell.seeds}
    return found


def judge(contestants: Sequence[tuple[Sequence[int], Numbers | None]]) -> Judged | None:
    """Badness of contestants on one toy, each given as (seeds, numbers); None for numbers says that every run failed.

    A seed without a number where other seeds of the contestant have one counts as the worst. Returns None if there
    is nothing that every contestant has.
    """
    offered = [numbers for _, numbers in contestants if numbers is not None]
    common, weight = shared(offered)
    if not common:
        return None
    owner = [index for index, (seeds, _) in enumerate(contestants) for _ in seeds]
    table = [[_of_run(numbers, where, seed) for where in common] for seeds, numbers in contestants for seed in seeds]
    names = {metric for metric, _ in common}
    lacking = {metric for numbers in offered for metric, _ in numbers} - names
    return Judged(np.array(owner), np.array(table, dtype=float), weight, tuple(sorted(names)), tuple(sorted(lacking)))


def shared(offered: Sequence[Numbers]) -> tuple[list[Where], NDArray[np.float64]]:
    """What all of them have, with weights: each metric the same, and so the places of a metric; they add up to 1."""
    common = sorted(set.intersection(*map(set, offered))) if offered else []
    names = [metric for metric, _ in common]
    return common, np.array([1 / names.count(name) for name in names]) / max(1, len(set(names)))


def _counts(cell: Cell, parameter: str, present: set[str]) -> bool:
    if cell.family not in FAMILIES or cell.name in _NOTES or not any(seed.value is not None or seed.undefined for seed in cell.seeds):
        return False
    if cell.family == "cost":
        return cell.name in _COSTS
    if any(other in present for other in _REPEATS.get(cell.name, ())):
        return False
    if cell.family == "fit" and not _of_interest(cell, parameter):
        return False
    return cell.direction != "target" or target_of(cell) is not None


def _of_interest(cell: Cell, parameter: str) -> bool:
    if cell.at.get("network") == "retrained" or cell.at.get("kind") == "nuisance":
        return False
    return cell.at.get("kind") == "interest" or cell.at.get("parameter") in (None, parameter)


def _badness(cell: Cell, seed: SeedValue) -> float:
    if seed.value is None:
        return math.inf
    if seed.censored and cell.name == "n_star":
        return -math.inf if seed.censored == "above" else math.inf
    return badness_of(cell, seed.value)


def _of_run(numbers: Numbers | None, where: Where, seed: int) -> float:
    return math.inf if numbers is None else numbers[where].get(seed, math.inf)
