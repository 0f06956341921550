"""Ranks of the truth among weighted draws, their exact uniformity, and the bands that go with it.

Let s_1..s_L be independent draws from a proposal g, and s_0 the truth, which has density q if q is right.
Given the unordered set {s_0, ..., s_L} the truth is draw j with probability w_j / sum w, w = q / g. So for
any function f

    u = [sum_j w_j 1(f_j < f_0) + V sum_j w_j 1(f_j = f_0)] / sum_j w_j,   j = 0..L,   V ~ U(0, 1)

is uniform exactly: for every L, however uneven the weights (these cost power alone), ties included. With
equal weights it is the randomised rank of simulation-based calibration (Talts et al. 2018, arXiv:1804.06788).

N such ranks are tested by their largest ECDF deviation (Kolmogorov), whose distribution is known for every
N, and shown beside the simultaneous binomial band of Sailynoja, Burkner, Vehtari 2021, arXiv:2103.10522.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, kstwo
from torch import Tensor

from touchneedle.benchmark.metrics.curves import curve_row
from touchneedle.benchmark.metrics.scores import Row
from touchneedle.benchmark.records import Metric, Null

# Stated level of all bands: they are left with this probability by a right answer.
ALPHA = 0.05
BAND_POINTS = 40
BAND_REPEATS = 4_000
BAND_CHUNK = 500
# Mean and standard deviation of sqrt(N) times the largest deviation (Kolmogorov): sqrt(pi/2) ln 2 and the rest of pi^2/12.
KOLMOGOROV_MEAN = math.sqrt(math.pi / 2) * math.log(2)
KOLMOGOROV_STD = math.sqrt(math.pi**2 / 12 - KOLMOGOROV_MEAN**2)


def truth_rank(statistic: Tensor, log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """Rank u (b,) of column 0, the truth, of ``statistic`` (b, 1 + L) among all columns under weights exp ``log_weight``.

    Where no column has any weight, the answer denies all that was simulated: rank 1.
    """
    possible = torch.isfinite(log_weight).any(-1)
    weight = torch.softmax(torch.where(possible[:, None], log_weight, torch.zeros_like(log_weight)), -1)
    below = (weight * (statistic < statistic[:, :1])).sum(-1)
    tied = (weight * (statistic == statistic[:, :1])).sum(-1)
    tie_breaker = torch.rand(len(statistic), generator=generator, dtype=torch.float64)
    return torch.where(possible, (below + tie_breaker * tied).clamp(0, 1), torch.ones_like(below))


def largest_deviation(ranks: Tensor) -> float:
    """Largest distance of the ECDF of ``ranks`` (N,) from the diagonal (Kolmogorov's D)."""
    ordered = ranks.sort().values
    steps = torch.arange(len(ranks) + 1, dtype=torch.float64) / len(ranks)
    return float(torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max())


def deviation_row(name: str, ranks: Tensor, at: dict[str, Any]) -> Metric:
    """The largest ECDF deviation with its exact p-value, the critical value at 5 % and the verdict of the simultaneous band.

    The standard error is the standard deviation under the null hypothesis (asymptotic), as is ``null``.
    """
    n = len(ranks)
    value = largest_deviation(ranks)
    null = Null(value=KOLMOGOROV_MEAN / math.sqrt(n), stderr=KOLMOGOROV_STD / math.sqrt(n))
    at = {
        **at,
        "p_value": float(kstwo.sf(value, n)),
        "band": critical_deviation(n),
        "inside_band": inside_band(ranks),
        "z": (value - null.value) * math.sqrt(n) / KOLMOGOROV_STD,
    }
    return Metric(family="calibration", name=name, at=at, value=value, stderr=null.stderr, n=n, direction="lower", null=null)


@lru_cache
def critical_deviation(n: int, alpha: float = ALPHA) -> float:
    """Largest deviation that n right ranks exceed with probability alpha."""
    return float(kstwo.isf(alpha, n))


def band_edges(points: int = BAND_POINTS) -> NDArray[np.float64]:
    """Inner levels z_1..z_K of the band, evenly spaced in (0, 1)."""
    return np.arange(1, points) / points


@lru_cache
def band_level(n: int, points: int = BAND_POINTS, alpha: float = ALPHA) -> float:
    """Pointwise two-sided level gamma at which all binomial intervals hold together with probability 1 - alpha.

    By simulation of the null: the alpha quantile of the smallest pointwise tail (arXiv:2103.10522, algorithm 1).
    """
    generator = torch.Generator().manual_seed(n)
    tails = []
    for _ in range(BAND_REPEATS // BAND_CHUNK):
        cells = (points * torch.rand(BAND_CHUNK, n, generator=generator)).long()
        counts = torch.zeros(BAND_CHUNK, points).scatter_add_(1, cells, torch.ones(1).expand_as(cells)).cumsum(1)
        tails.append(_smallest_tail(counts[:, :-1].double().numpy(), n, points))
    return float(np.quantile(np.concatenate(tails), alpha))


def simultaneous_band(n: int, points: int = BAND_POINTS, alpha: float = ALPHA) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ECDF at `band_edges` between which the ECDF of n right ranks lies with probability 1 - alpha."""
    gamma, edges = band_level(n, points, alpha), band_edges(points)
    return binom.ppf(gamma / 2, n, edges) / n, binom.ppf(1 - gamma / 2, n, edges) / n


def inside_band(ranks: Tensor, points: int = BAND_POINTS) -> bool:
    """Whether the ECDF of ``ranks`` stays inside the simultaneous band."""
    counts = _counts_below(ranks, torch.from_numpy(band_edges(points)))
    return bool(_smallest_tail(counts[None], len(ranks), points)[0] >= band_level(len(ranks), points))


def ecdf_rows(curve: str, series: str, ranks: Tensor) -> list[Row]:
    """Curve of the ECDF difference with its simultaneous band."""
    edges = band_edges()
    low, high = simultaneous_band(len(ranks))
    ecdf = _counts_below(ranks, torch.from_numpy(edges)) / len(ranks)
    columns = (edges, ecdf - edges, low - edges, high - edges)
    return [curve_row(curve, series, *map(float, point)) for point in zip(*columns, strict=True)]


def _counts_below(ranks: Tensor, edges: Tensor) -> NDArray[np.float64]:
    return torch.searchsorted(ranks.sort().values, edges, right=True).double().numpy()


def _smallest_tail(counts: NDArray[np.float64], n: int, points: int) -> NDArray[np.float64]:
    """Smallest two-sided binomial tail over the edges of each row of ``counts`` (m, K)."""
    edges = band_edges(points)
    below, above = binom.cdf(counts, n, edges), binom.sf(counts - 1, n, edges)
    return np.minimum(1.0, 2 * np.minimum(below, above)).min(-1)
