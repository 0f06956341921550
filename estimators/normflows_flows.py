"""Flows by normflows 1.7 (https://github.com/VincentStimper/normalizing-flows): builders of (columns, columns of the context, options).

Most of its layers ignore a context. Its autoregressive spline takes one; its affine coupling is built here from
parts, with the context beside the columns that stay as they are. What differs from `zuko_flows`: the conditioners
of splines are residual networks of equal widths, whose context enters linearly and through gates, and which start
at the identity. The affine coupling is the function of `zuko_realnvp`: equal weights give equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from normflows.flows import AffineCoupling, AutoregressiveRationalQuadraticSpline
from torch import Tensor, nn

from touchneedle.conf.errors import InputError
from touchneedle.estimators.conditional_flow import LEAST_SLOPE, SPLINE_REACH, ConditionalFlow, coupled_columns, equal_width
from touchneedle.estimators.flow_density import FlowConfig, SplineFlowConfig
from touchneedle.estimators.made_masks import open_first_column
from touchneedle.estimators.networks import mlp


class AutoregressiveSplines(ConditionalFlow):
    """Rational-quadratic splines, one column after the other; the order alternates."""

    def __init__(self, features: int, context: int, config: SplineFlowConfig) -> None:
        super().__init__(features)
        width = equal_width("normflows", config.hidden_features)
        blocks = len(config.hidden_features) - 1
        if not blocks:
            raise InputError(f"normflows_nsf: option hidden_features: expected two widths or more; got {config.hidden_features}")
        options: Any = {"num_context_channels": context, "num_bins": config.bins, "tail_bound": SPLINE_REACH, "activation": nn.SiLU}
        self.layers = nn.ModuleList(
            AutoregressiveRationalQuadraticSpline(features, blocks, width, **options) for _ in range(config.transforms)
        )
        for layer in self.layers:
            open_first_column(layer.get_submodule("mprqat.autoregressive_net"), features)

    def to_noise(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of z (n, d), and log |d noise / d z| (n,): the inverse, in the words of normflows."""
        total = torch.zeros_like(z[:, 0])
        for layer in _each(self.layers):
            z, log_det = layer.inverse(z, context)
            z, total = z.flip(-1), total + log_det
        return z, total

    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        for layer in reversed(_each(self.layers)):
            noise, _ = layer(noise.flip(-1), context)
        return noise


class AffineCouplings(ConditionalFlow):
    """Scales and shifts of every second column, in turns; raises `SkipCell` for a single one."""

    def __init__(self, features: int, context: int, config: FlowConfig) -> None:
        super().__init__(features)
        self.kept = coupled_columns(features, config.transforms)
        self.layers = nn.ModuleList(
            AffineCoupling(_conditioner(int(kept.sum()) + context, int((~kept).sum()), config.hidden_features)) for kept in self.kept
        )

    def to_noise(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of z (n, d), and log |d noise / d z| (n,)."""
        total = torch.zeros_like(z[:, 0])
        for layer, kept in zip(_each(self.layers), self.kept, strict=True):
            # What a coupling keeps may hold anything that its conditioner should see: here the context too.
            (_, moved), log_det = layer([torch.cat([z[:, kept], context], -1), z[:, ~kept]])
            z, total = _with(z, ~kept, moved), total + log_det
        return z, total

    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        for layer, kept in zip(reversed(_each(self.layers)), reversed(self.kept), strict=True):
            (_, moved), _ = layer.inverse([torch.cat([noise[:, kept], context], -1), noise[:, ~kept]])
            noise = _with(noise, ~kept, moved)
        return noise


class _BoundedScale(nn.Module):
    """(shift, log scale) in turns, with log scales within +-log(1000): s / (1 + |s| / log 1000)."""

    def forward(self, parameters: Tensor) -> Tensor:
        shift, scale = parameters.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([shift, scale / (1 + scale.abs() / -math.log(LEAST_SLOPE))], -1).flatten(-2)


def _each(layers: nn.ModuleList) -> list[Any]:
    return list(layers)


def _conditioner(inputs: int, moved: int, hidden: Sequence[int]) -> nn.Module:
    return nn.Sequential(mlp(inputs, 2 * moved, hidden), _BoundedScale())


def _with(z: Tensor, columns: Tensor, value: Tensor) -> Tensor:
    """z with other values in the columns of a mask."""
    z = z.clone()
    z[:, columns] = value
    return z
