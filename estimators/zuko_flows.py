"""Flows by zuko (https://zuko.readthedocs.io): each builder takes (columns, columns of the context, options).

* splines: Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032; the identity beyond 5 standard deviations.
* affine autoregressive: Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057.
* affine coupling: Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803.
* Gaussianisation: Meng, Song, Song, Ermon 2020, arXiv:2003.01941.
"""

from __future__ import annotations

from typing import Any

import torch
import zuko
from torch import Tensor, nn
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.transforms import MonotonicTransform

from touchneedle.estimators.conditional_flow import LEAST_SLOPE, ConditionalFlow, coupled_columns
from touchneedle.estimators.flow_density import FlowConfig, SplineFlowConfig

# The inverse of a Gaussianisation is searched within that many standard deviations.
_FARTHEST = 1e4
_SMALLEST_TAIL = 1e-30


class ZukoFlow(ConditionalFlow):
    """A flow of zuko; its transform is called itself, for torch.distributions would validate every batch."""

    def __init__(self, features: int, flow: zuko.flows.Flow) -> None:
        super().__init__(features)
        # The base is not used, but its buffers are part of saved weights.
        self.transform, self.base = flow.transform, flow.base

    def to_noise(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (n, d) of z (n, d), and log |d noise / d z| (n,)."""
        return self.transform(context).call_and_ladj(z)

    def _from_noise(self, noise: Tensor, context: Tensor) -> Tensor:
        return self.transform(context).inv(noise)


def spline_autoregressive(features: int, context: int, config: SplineFlowConfig) -> ZukoFlow:
    """Rational-quadratic splines, one column after the other."""
    return ZukoFlow(features, zuko.flows.NSF(features, context, bins=config.bins, **_common(config)))


def affine_autoregressive(features: int, context: int, config: FlowConfig) -> ZukoFlow:
    """Scales and shifts, one column after the other."""
    return ZukoFlow(features, zuko.flows.MAF(features, context, **_common(config)))


def affine_coupling(features: int, context: int, config: FlowConfig) -> ZukoFlow:
    """Scales and shifts of every second column, in turns; raises `SkipCell` for a single one."""
    coupled_columns(features, config.transforms)
    return ZukoFlow(features, zuko.flows.NICE(features, context, **_common(config)))


def gaussianisation(features: int, context: int, config: SplineFlowConfig) -> ZukoFlow:
    """Each column through the distribution function of a mixture of ``bins`` Gaussians; rotations in between."""
    flow = zuko.flows.GF(features, context, components=config.bins, **_common(config))
    for layer in flow.modules():
        if isinstance(layer, ElementWiseTransform):
            layer.univariate = _gaussianise
    return ZukoFlow(features, flow)


def _gaussianise(shift: Tensor, log_scale: Tensor) -> Any:
    """Phi^-1(mean_k Phi(a_k x + b_k)) plus a least slope, as a transform of zuko.

    zuko's own formula stops at +-4.9 and loses its digits in float32 on the way there; far from all components it
    is flat, and the log density minus infinity. Here the mean is taken in the nearer tail.
    """
    scale = log_scale.exp()

    def through_mixture(x: Tensor) -> Tensor:
        u = x[..., None] * scale + shift
        below, above = (torch.special.ndtr(side).mean(-1) for side in (u, -u))
        # Each branch is kept away from what the other one answers: its gradient would be NaN there.
        low, high = (torch.special.ndtri(tail.clamp(_SMALLEST_TAIL, 0.75)) for tail in (below, above))
        return torch.where(below < above, low, -high) + LEAST_SLOPE * x

    return MonotonicTransform(through_mixture, phi=(shift, log_scale), bound=_FARTHEST)


def _common(config: FlowConfig) -> dict[str, Any]:
    return {"transforms": config.transforms, "hidden_features": config.hidden_features, "activation": nn.SiLU}
