"""Area under the ROC curve of weighted events, with its standard error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from touchneedle.benchmark.metrics.averages import Average


def auc_and_error(
    first: Tensor,
    second: Tensor,
    first_weight: Tensor | None = None,
    second_weight: Tensor | None = None,
) -> Average:
    """P(first > second) + P(first = second) / 2 for scores (n,) and (m,), infinities included.

    The error is that of the two means of placements, of the first among the second and the other way round
    (DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44, 837).
    """
    w_first, w_second = _weights(first, first_weight), _weights(second, second_weight)
    above, below = _share_below(first, second, w_second), 1 - _share_below(second, first, w_first)
    auc = w_first @ above / w_first.sum()
    return float(auc), math.hypot(_error(w_first, above - auc), _error(w_second, below - auc))


def _weights(values: Tensor, weight: Tensor | None) -> Tensor:
    return torch.ones(len(values), dtype=torch.float64) if weight is None else weight.double()


def _share_below(values: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    """Share of the others' weight below each value, ties counted half: shape of ``values``."""
    others, order = others.sort()
    cumulative = torch.cat([weight.new_zeros(1), weight[order].cumsum(0)])
    below, up_to = (cumulative[torch.searchsorted(others, values, right=right)] for right in (False, True))
    return (below + up_to) / (2 * cumulative[-1])


def _error(weight: Tensor, residual: Tensor) -> float:
    """Standard error of a weighted mean."""
    return float((weight * residual).norm() / weight.sum())
