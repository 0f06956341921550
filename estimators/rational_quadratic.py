"""Rational-quadratic splines, features first: x (d, n), parameters (d, 3 K - 1, n).

Monotonic on [-B, B] and the identity beyond, with slope one at both ends (Gregory and Delbourgo 1982; Durkan, Bekasov,
Murray, Papamakarios 2019, arXiv:1906.04032, eq. 4 to 6). In this layout the rows of a batch lie next to each other, so that
sums and gathers run along whole lines of memory: twice as fast as with the parameters last. The bin is found first, and only
what it needs is divided and passed through softplus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

# Bins are no narrower than this share of the whole, and no slope at a knot is flatter.
LEAST = 1e-3
_MOST_IN_A_BYTE = 255
# softplus of it is 1 - LEAST, so that free numbers of zero give slopes of one.
_UNIT_SLOPE = math.log(math.expm1(1 - LEAST))


@dataclass(frozen=True)
class Bin:
    """The bin of each value, every entry (d, n): lower corner, width, height, slopes at both ends."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor


def forward(x: Tensor, parameters: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """y (d, n) of x (d, n), and log dy/dx (d, n).

    Free parameters (d, 3 K - 1, n) are K widths, K heights and K - 1 inner slopes; zero is the identity.
    """
    inside = x.abs() < reach
    held = torch.where(inside, x, 0.0)
    found = _bin_of(held, parameters, reach, axis=0)
    y, log_slope = _evaluate((held - found.x) / found.width, found)
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def inverse(y: Tensor, parameters: Tensor, reach: float) -> Tensor:
    """x (d, n) of y (d, n): the root of a quadratic equation (Durkan et al., eq. 6 to 8), best in float64."""
    inside = y.abs() < reach
    held = torch.where(inside, y, 0.0)
    found = _bin_of(held, parameters, reach, axis=1)
    mean = found.height / found.width
    above = held - found.y
    bend = above * (found.left + found.right - 2 * mean)
    a = found.height * (mean - found.left) + bend
    b = found.height * found.left - bend
    c = -mean * above
    place = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
    return torch.where(inside, found.x + place * found.width, y)


def _bin_of(value: Tensor, parameters: Tensor, reach: float, axis: int) -> Bin:
    """The bin that holds each value (d, n) along x (axis 0) or y (axis 1).

    Widths and heights are shares of 2 reach: a softmax above the least, divided by its total (d, 2, n) only in the bin that was found.
    """
    bins = (parameters.shape[1] + 1) // 3
    free, slopes = parameters[:, : 2 * bins].unflatten(1, (2, bins)), parameters[:, 2 * bins :]
    share = (free - free.detach().amax(2, keepdim=True)).exp_()
    total, upper = share.sum(2), _running_sums(share, reach) @ share
    index = _count((value + reach)[:, None] * total[:, axis, None] >= upper[:, axis, :-1])
    at_index = index[:, None].expand(-1, 2, -1, -1)
    size = 2 * reach * (LEAST + (1 - LEAST * bins) * share.gather(2, at_index).squeeze(2) / total)
    low = upper.gather(2, at_index).squeeze(2) / total - size - reach
    ends = pad(slopes, (0, 0, 1, 1)).gather(1, torch.cat([index, index + 1], 1))
    slope = LEAST + softplus(ends + _UNIT_SLOPE)
    return Bin(*low.unbind(1), *size.unbind(1), *slope.unbind(1))


def _count(passed: Tensor) -> Tensor:
    """How many are true along the second axis, (d, 1, n)."""
    # Bytes are counted in a fraction of the time, but a compiler does better by itself.
    if torch.compiler.is_compiling() or passed.shape[1] > _MOST_IN_A_BYTE:
        return passed.sum(1, keepdim=True)
    return passed.view(torch.uint8).sum(1, keepdim=True, dtype=torch.uint8).long()


def _running_sums(share: Tensor, reach: float) -> Tensor:
    """Matrix (K, K) from shares (d, 2, K, n) to the upper corners of their bins, counted from -reach and times the total share."""
    bins = share.shape[2]
    below = torch.ones(bins, bins, dtype=share.dtype, device=share.device).tril()
    return 2 * reach * ((1 - LEAST * bins) * below + LEAST * below.sum(1, keepdim=True))


def _evaluate(place: Tensor, found: Bin) -> tuple[Tensor, Tensor]:
    """y and log dy/dx at a place in [0, 1] of a bin, each (d, n): Durkan et al., eq. 4 and 5, as interpolations of slopes."""
    mean = found.height / found.width
    first, second = found.left.lerp(mean, place), mean.lerp(found.right, place)
    below = second.lerp(first, place)
    y = found.y + found.height * place * first / below
    return y, (first.lerp(second, place) * (mean / below).square()).log()
