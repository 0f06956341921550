"""Systematic variations that come as other weights of the same events, interpolated event by event between down, nominal and up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Variation", "mirrored", "smooth_between", "varied_weights"]


@dataclass
class Variation:
    """A nuisance in sigma, by what there is at minus and plus one.

    Attributes:
        down: weight column of the same events, or file or files of other events for each process that is varied. One side may be left
            out (null, or a process): it is the mirror image of the other.
        up: the same at plus one.
        processes: whose events have the weight columns; all by default.
    """

    down: str | dict[str, str | list[str]] | None = None
    up: str | dict[str, str | list[str]] | None = None
    processes: list[str] | None = None


def mirrored(nominal: NDArray[np.float64], varied: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (n,) at the other side of nominal ones: w_0^2 / w, or 2 w_0 - w where these differ in sign or one is 0."""
    one_sign = nominal * varied > 0
    return np.where(one_sign, nominal**2 / np.where(one_sign, varied, 1.0), 2 * nominal - varied)


def varied_weights(weights: Tensor, alpha: Tensor) -> Tensor:
    """Weights (n,) of events at nuisances alpha (n, q) in sigma, from (w_0, w_down 1, w_up 1, .. w_down q, w_up q), shape (n, 1 + 2 q).

        w(alpha) = w_0 prod_j exp s(alpha_j; ln w_down j / w_0, ln w_up j / w_0) + sum_i s(alpha_i; w_down i - w_0, w_up i - w_0)

    with s of `smooth_between`. The product is over the variations whose three weights have one sign, where it keeps that sign; the sum
    is over the others, which have no logarithm. Exact at every anchor alone.
    """
    nominal = weights[:, 0]
    factor, offset = torch.ones_like(nominal), torch.zeros_like(nominal)
    for j, value in enumerate(alpha.unbind(-1)):
        if not bool(value.any()):
            continue
        down, up = weights[:, 1 + 2 * j], weights[:, 2 + 2 * j]
        ratios = torch.stack([down, up]) / nominal
        # Beside a weight of almost nothing a ratio overflows.
        one_sign = ((ratios > 0) & ratios.isfinite()).all(0)
        factor = factor * smooth_between(value, *torch.where(one_sign, ratios, 1.0).log()).exp()
        offset = offset + torch.where(one_sign, 0.0, smooth_between(value, down - nominal, up - nominal))
    return nominal * factor + offset


def smooth_between(alpha: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """s(alpha): ``down`` at -1, 0 at 0, ``up`` at 1, straight lines outside, two continuous derivatives.

        s = alpha / 2 [(up - down) + (up + down) S(alpha)],   S = alpha (3 alpha^4 - 10 alpha^2 + 15) / 8 up to +-1 and constant beyond

    The interpolation of asymmetric uncertainties in Combine (CMS 2024, arXiv:2404.06614), which has the anchors and the smoothness of
    HistFactory's code 4. The arguments broadcast.
    """
    inside = alpha.clamp(-1, 1)
    square = inside.square()
    step = inside * (3 * square.square() - 10 * square + 15) / 8
    return alpha / 2 * ((up - down) + (up + down) * step)
