"""Who can be told from whom: differences of mean scores over toys, many at a time.

Scores s (toys N, contestants K) are compared as by Conover and Iman (1979, LA-7677-MS): the residuals of the two-way layout give one
error for all differences. One more toy, on which the same scores fall on contestants at random, is counted in the variance: K - 1 degrees
of freedom with V, the mean over toys of the variance of their scores (K (K + 1) / 12 for plain ranks). Without it, a few toys that agree
by chance would have no variance at all.

    se^2 = 2 / N * [sum of squared residuals + (K - 1) V] / [(N - 1) (K - 1) + (K - 1)]

p-values are those of Student's t with (N - 1)(K - 1) degrees of freedom, corrected by Holm (1979, Scand. J. Stat. 6, 65).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Mean score of ``worse`` less that of ``better`` (indices), its error, and its p-value corrected for all pairs."""

    better: int
    worse: int
    value: float
    stderr: float
    p_value: float

    @property
    def told_apart(self) -> bool:
        """Whether the two differ at `LEVEL`."""
        return self.p_value < LEVEL


def differences(scores: NDArray[np.float64]) -> list[Difference]:
    """All pairs of contestants, from scores (N, K) with N >= 2 and K >= 2; lower scores are better."""
    toys, contestants = scores.shape
    mean = scores.mean(axis=0)
    stderr = math.sqrt(2 / toys * _variance(scores))
    first, second = np.triu_indices(contestants, 1)
    gap = mean[second] - mean[first]
    # Without any error all scores are equal, and so are the means.
    p_values = holm(2 * student.sf(np.abs(gap) / (stderr or 1.0), (toys - 1) * (contestants - 1)))
    pairs = [(i, j) if d >= 0 else (j, i) for i, j, d in zip(first, second, gap, strict=True)]
    return [Difference(int(i), int(j), abs(float(d)), stderr, float(p)) for (i, j), d, p in zip(pairs, gap, p_values, strict=True)]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction: p-values that hold for the whole family of tests."""
    order = np.argsort(p_values, kind="stable")
    steps = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * steps))
    return corrected


def letters(order: Sequence[int], apart: set[frozenset[int]]) -> dict[int, str]:
    """Letters of contestants in their order, best first: two share a letter exactly if they cannot be told apart.

    The pairs told apart have to be nested, as those of one common error are: whoever is told from a neighbour is told from all beyond it.
    """
    groups: list[Sequence[int]] = []
    reached = 0
    for start, index in enumerate(order):
        end = next((k for k in range(start, len(order)) if frozenset((index, order[k])) in apart), len(order))
        if end > reached:
            groups.append(order[start:end])
            reached = end
    return {index: "".join(letter(number) for number, group in enumerate(groups) if index in group) for index in order}


def random_variance(scores: NDArray[np.float64]) -> float:
    """Variance V of a score on a toy where the order is random, from scores (N, K)."""
    return float(scores.var(axis=1, ddof=1).mean())


def letter(number: int) -> str:
    """a to z, then aa, ab, ..."""
    head, tail = divmod(number, 26)
    return (letter(head - 1) if head else "") + chr(ord("a") + tail)


def _variance(scores: NDArray[np.float64]) -> float:
    toys, contestants = scores.shape
    residuals = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    return float((np.sum(residuals**2) + (contestants - 1) * random_variance(scores)) / (toys * (contestants - 1)))
