"""Calibration of a classifier: a monotone map of its logit to the log odds that labelled pairs really have.

``isotonic`` is the monotone step function of largest likelihood over single pairs (pool adjacent violators; Zadrozny, Elkan 2002),
``histogram`` the same over bins of equal mass. A step has no slope and one of a single class no log odds, so steps are merged until
each holds ten pairs of either class, and joined by straight lines through their mean logits; the outermost go on with slope 1.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

CalibrationName = Literal["isotonic", "histogram"]

_BINS = 20
# Pairs of either class in a step, in units of their mean weight: its log odds are then known to about 0.4.
_FEWEST = 10.0


class LogitCalibration(nn.Module):
    """Piecewise linear map of logits; the identity until it has learned.

    Attributes:
        knots: mean logit of each step, increasing (k,).
        log_odds: log odds there, increasing (k,).
    """

    knots: Tensor
    log_odds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(0))
        self.register_buffer("log_odds", torch.zeros(0))

    def learn(self, logit: Tensor, label: Tensor, weight: Tensor, name: CalibrationName) -> None:
        """From logits (n,), labels 1 and 0 (n,), and positive weights (n,) of equal sum and mean 1 in both classes.

        Too few pairs for a single step leave the identity.
        """
        values, group = logit.double().unique(return_inverse=True)
        steps = torch.zeros(len(values), 3, dtype=torch.float64, device=logit.device)
        columns = torch.stack([label * weight, (1 - label) * weight, weight * logit], 1).double()
        steps = steps.index_add(0, group, columns).cpu()
        if name == "histogram":
            steps = _binned(steps)
        steps = _large(_monotone(steps))
        self.knots = (steps[:, 2] / steps[:, :2].sum(1)).to(self.knots)
        self.log_odds = (steps[:, 0] / steps[:, 1]).log().to(self.log_odds)

    def forward(self, logit: Tensor) -> Tensor:
        """Calibrated logits, of the shape of ``logit``."""
        if not len(self.knots):
            return logit
        inner = self.log_odds.diff() / self.knots.diff()
        slopes = torch.cat([torch.ones_like(self.knots[:1]), inner, torch.ones_like(self.knots[:1])])
        above = torch.searchsorted(self.knots, logit.detach().contiguous())
        start = (above - 1).clamp_min(0)
        return self.log_odds[start] + slopes[above] * (logit - self.knots[start])


def _binned(steps: Tensor) -> Tensor:
    """Steps (n, 3) of (weight of class 1, of class 0, weighted sum of logits) added up in bins of equal mass."""
    mass = steps[:, :2].sum(1)
    bins = ((mass.cumsum(0) - 0.5 * mass) / mass.sum() * _BINS).long().clamp(0, _BINS - 1)
    total = torch.zeros(_BINS, 3, dtype=steps.dtype).index_add_(0, bins, steps)
    return total[total[:, :2].sum(1) > 0]


def _monotone(steps: Tensor) -> Tensor:
    """Neighbours added up until the share of class 1 increases."""
    mass = steps[:, :2].sum(1)
    steps, mass = steps[mass > 0], mass[mass > 0]
    if not len(steps):
        return steps
    # Its import takes a third of a second: only for who calibrates.
    from scipy.optimize import isotonic_regression

    blocks = isotonic_regression((steps[:, 0] / mass).numpy(), weights=mass.numpy()).blocks
    return torch.stack([steps[start:stop].sum(0) for start, stop in itertools.pairwise(blocks)])


def _large(steps: Tensor) -> Tensor:
    """Neighbours added up until each holds enough of either class; what is left over joins the last."""
    merged: list[Tensor] = []
    current = torch.zeros(3, dtype=steps.dtype)
    for step in steps:
        current = current + step
        if bool((current[:2] >= _FEWEST).all()):
            merged.append(current)
            current = torch.zeros_like(current)
    if merged:
        merged[-1] = merged[-1] + current
    return torch.stack(merged) if merged else steps[:0]
