"""Masked perceptrons of one shape, evaluated side by side by batched matrix products.

Masks as in MADE (Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509): what belongs to a
feature depends on the context and on the features before it. Each network keeps parameters of its
own, so that it can be trained while the others rest. Where no gradient of the weights is wanted (scoring, fits), their stack is made
once and kept until one of them changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

Layer = tuple[Tensor, Tensor]


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
        self.networks = nn.ModuleList(nn.ModuleList(nn.Linear(mask.shape[1], mask.shape[0]) for mask in masks) for _ in range(count))
        for network in self.networks:
            *_, last = _linears(network)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self._kept: tuple[object, list[Layer]] | None = None

    def forward(self, inputs: Tensor, which: Sequence[int]) -> Tensor:
        """Answers of the networks ``which`` (k of them) to inputs (n, d + c): shape (k, n, d, outputs)."""
        value = inputs.expand(len(which), -1, -1)
        for depth, (weight, bias) in enumerate(self._layers(which)):
            value = torch.baddbmm(bias, silu(value) if depth else value, weight)
        return value.unflatten(-1, (-1, self.outputs))

    def train(self, mode: bool = True) -> MaskedNetworks:
        """Forget the stack: fused optimisers change weights without a trace in their versions."""
        self._kept = None
        return super().train(mode)

    def _layers(self, which: Sequence[int]) -> list[Layer]:
        """Masked weights (k, in, out) and biases (k, 1, out) of each layer: those kept of all networks, where they may be."""
        chosen = [self.networks[k] for k in which]
        if not _are_constant(chosen):
            return self._stacked(chosen)
        state = _versions(self.networks)
        if self._kept is None or self._kept[0] != state:
            with torch.no_grad():
                self._kept = state, self._stacked(self.networks)
        kept = self._kept[1]
        return kept if len(which) == len(self.networks) else [(weight[which], bias[which]) for weight, bias in kept]

    def _stacked(self, networks: Iterable[nn.Module]) -> list[Layer]:
        layers = enumerate(zip(*map(_linears, networks), strict=True))
        return [(_stack(linears, "weight") * self.get_buffer(f"mask_{depth}").T, _stack(linears, "bias")) for depth, linears in layers]


def _stack(linears: Iterable[nn.Linear], name: str) -> Tensor:
    """Transposed weights (k, in, out), or biases (k, 1, out)."""
    stacked = torch.stack([getattr(linear, name) for linear in linears])
    return stacked.mT if name == "weight" else stacked[:, None]


def _linears(network: nn.Module) -> Iterator[nn.Linear]:
    yield from cast(Iterable[nn.Linear], network)


def _tensors(networks: Iterable[nn.Module]) -> list[Tensor]:
    """All weights and biases; `Module.parameters` would take longer than the networks."""
    return [tensor for network in networks for linear in _linears(network) for tensor in (linear.weight, linear.bias)]


def _are_constant(networks: Iterable[nn.Module]) -> bool:
    """Whether their weights are their own (not traced, nor replaced for a call), and no gradient of them is wanted."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return False
    tensors = _tensors(networks)
    own = all(isinstance(tensor, nn.Parameter) for tensor in tensors)
    return own and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _versions(networks: Iterable[nn.Module]) -> tuple[object, ...]:
    """Where all weights lie and how often they were changed in place."""
    return tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in _tensors(networks))


def masks_of(order: Sequence[int], context: int, outputs: int, hidden: Sequence[int]) -> list[Tensor]:
    """Which unit may see which, layer by layer, each (units out, units in) of zeros and ones.

    A hidden unit of rank r sees the first r features; an output of the feature at place r sees ranks up to r.
    """
    place = torch.tensor(order).argsort()
    ranks = [torch.cat([place + 1, torch.zeros(context, dtype=torch.long)])]
    ranks += [torch.arange(width) * len(order) // width for width in hidden]
    ranks.append(place.repeat_interleave(outputs))
    return [(after[:, None] >= before).float() for before, after in itertools.pairwise(ranks)]
