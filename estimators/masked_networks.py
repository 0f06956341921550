"""Masked perceptrons of one shape, evaluated side by side by batched matrix products.

Masks as in MADE (Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509): what belongs to a
feature depends on the context and on the features before it. Each network keeps parameters of its
own, so that it can be trained while the others rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


class MaskedNetworks(nn.Module):
    """``count`` networks, (n, d + c) -> (n, d, outputs) each; all answer 0 until they are trained.

    Args:
        order: the features (columns of the input) from first to last.
        context: number of columns c that every output may depend on.
        hidden: widths of the hidden layers (SiLU).
    """

    def __init__(self, count: int, order: Sequence[int], context: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.outputs = outputs
        masks = masks_of(order, context, outputs, hidden)
        for depth, mask in enumerate(masks):
            self.register_buffer(f"mask_{depth}", mask, persistent=False)
        self.depths = range(len(masks))
        self.networks = nn.ModuleList(nn.ModuleList(nn.Linear(mask.shape[1], mask.shape[0]) for mask in masks) for _ in range(count))
        for parameter in self._parameters_at(self.depths[-1], range(count), "weight", "bias"):
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor, which: Sequence[int]) -> Tensor:
        """Answers of the networks ``which`` (k of them) to inputs (n, d + c): shape (k, n, d, outputs)."""
        value = inputs.expand(len(which), -1, -1)
        for depth in self.depths:
            weight = torch.stack(self._parameters_at(depth, which, "weight")) * self.get_buffer(f"mask_{depth}")
            bias = torch.stack(self._parameters_at(depth, which, "bias"))
            value = torch.baddbmm(bias[:, None], silu(value) if depth else value, weight.transpose(1, 2))
        return value.unflatten(-1, (-1, self.outputs))

    def _parameters_at(self, depth: int, which: Sequence[int], *names: str) -> list[Tensor]:
        return [self.get_parameter(f"networks.{k}.{depth}.{name}") for k in which for name in names]


def masks_of(order: Sequence[int], context: int, outputs: int, hidden: Sequence[int]) -> list[Tensor]:
    """Which unit may see which, layer by layer, each (units out, units in) of zeros and ones.

    A hidden unit of rank r sees the first r features; an output of the feature at place r sees ranks up to r.
    """
    place = torch.tensor(order).argsort()
    ranks = [torch.cat([place + 1, torch.zeros(context, dtype=torch.long)])]
    ranks += [torch.arange(width) * len(order) // width for width in hidden]
    ranks.append(place.repeat_interleave(outputs))
    return [(after[:, None] >= before).float() for before, after in itertools.pairwise(ranks)]
