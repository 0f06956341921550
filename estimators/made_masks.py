"""Masks of MADE that let the context act on every column (Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509).

The MADE that nflows and normflows share numbers its hidden units from 1: unit r sees the columns up to r.
The context enters through hidden units alone, so the first column, which may see none of them, never depends
on it. Numbered from 0, some units see the context and nothing else, and the first column sees those.
"""

from __future__ import annotations

import torch
from torch import nn


def open_first_column(made: nn.Module, features: int) -> None:
    """Renumber the hidden units of a MADE (of nflows or normflows) from 0 to ``features`` - 1, in place."""
    *hidden, last = [layer for layer in made.modules() if isinstance(layer, nn.Linear) and hasattr(layer, "mask")]
    seen = torch.arange(1, features + 1)
    for layer in hidden:
        rank = torch.arange(layer.out_features) % features
        _set(layer, rank, rank[:, None] >= seen)
        seen = rank
    rank = torch.arange(features).repeat_interleave(last.out_features // features) + 1
    _set(last, rank, rank[:, None] > seen)


def _set(layer: nn.Linear, degrees: torch.Tensor, mask: torch.Tensor) -> None:
    layer.register_buffer("degrees", degrees)
    layer.register_buffer("mask", mask.float())
