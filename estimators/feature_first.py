"""Autoregressive flows of our own, features first: values (d, n), so that the rows of a batch lie next to each other in memory.

A layer transforms each feature by parameters from a masked perceptron (Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509)
of the context and of the features before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from touchneedle.estimators.conditional_flow import ConditionalFlow
from touchneedle.estimators.masked_networks import masks_of


class FeatureFirstLayer(nn.Module):
    """Abstract. A monotonic transform of each feature, given the features before it in ``order`` and the context (c, n).

    Args:
        outputs: parameters of each transform.
        hidden: widths of the hidden layers (SiLU).
    """

    def __init__(self, order: Sequence[int], context: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.order, self.features, self.outputs = tuple(order), len(order), outputs
        masks = masks_of(order, context, outputs, hidden)
        self.linear = nn.ModuleList(nn.Linear(mask.shape[1], mask.shape[0]) for mask in masks)
        for depth, mask in enumerate(masks):
            self.register_buffer(f"mask_{depth}", mask, persistent=False)

    @abstractmethod
    def _transform(self, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The next value (d, n) by parameters (d, outputs, n), and its log slope (d, n)."""

    @abstractmethod
    def _invert(self, value: Tensor, parameters: Tensor) -> Tensor:
        """The value before (d, n)."""

    def forward(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The next value (d, n), and its log slope (d, n)."""
        parameters = self._parameters_of(value, context)
        # Products of the perceptron may be of lower precision; what follows must not be.
        if torch.is_autocast_enabled(value.device.type):
            with torch.autocast(value.device.type, enabled=False):
                return self._transform(value, parameters)
        return self._transform(value, parameters)

    def inverse(self, value: Tensor, context: Tensor) -> Tensor:
        """The value before (d, n): one feature after the other."""
        before = torch.zeros_like(value)
        for column in self.order:
            inverted = self._invert(value, self._parameters_of(before, context))
            before = torch.where(torch.arange(self.features, device=value.device)[:, None] == column, inverted, before)
        return before

    def _parameters_of(self, value: Tensor, context: Tensor) -> Tensor:
        """Parameters of the transforms (d, outputs, n)."""
        hidden = torch.cat([value, context])
        for depth, layer in enumerate(self.linear):
            assert isinstance(layer, nn.Linear)
            weight = layer.weight * self.get_buffer(f"mask_{depth}")
            hidden = torch.addmm(layer.bias[:, None], weight, silu(hidden) if depth else hidden)
        return hidden.to(value).unflatten(0, (self.features, self.outputs))


class FeatureFirstFlow(ConditionalFlow):
    """Layers one after the other; every second one takes the features in the opposite order.

    Args:
        build: makes a layer for an order of the features.
    """

    def __init__(self, features: int, transforms: int, build: Callable[[list[int]], FeatureFirstLayer]) -> None:
        super().__init__(features)
        order = list(range(features))
        self.layers = nn.ModuleList(build(order if turn % 2 == 0 else order[::-1]) for turn in range(transforms))

    def to_noise(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of z (n, d), and log |d noise / d z| (n,)."""
        value, given = z.T.contiguous(), context.T
        log_det = torch.zeros_like(value[0])
        for layer in self.layers:
            value, log_slope = layer(value, given)
            log_det = log_det + log_slope.sum(0)
        return value.T, log_det

    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        value, given = noise.T, context.T
        for layer in reversed(self.layers):
            assert isinstance(layer, FeatureFirstLayer)
            value = layer.inverse(value, given)
        return value.T
