"""An energy-conserving optimiser: the weights move at constant speed, and the loss only steers.

    V = F - F_0,   du/dt = -(eta d / (2 (d - 1))) (1 - u u^T) grad F / V,   dTheta/dt = u,   |u| = 1

for d weights Theta: frictionless motion whose time average is the density (F - F_0)^(-eta d / 2), concentrated at
the bottom of the loss (De Luca, Gatti, Silverstein 2023, arXiv:2306.00352, the Hamiltonian with q = 1). The step in
u for a constant force is exact, so that no force is too large (Robnik, De Luca, Silverstein, Seljak 2022,
arXiv:2212.08549, eq. 16). A learning-rate schedule that goes to zero lets it settle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_GAP = 1.0


class EnergyConserving(torch.optim.Optimizer):
    """Motion at constant speed ``lr`` per step in the space of all weights.

    F_0, which must lie below the loss, is the lowest loss of any step so far less 1: log-likelihoods have no known minimum.

    Args:
        parameters: all weights, in one group.
        lr: length of a step, in the Euclidean norm over all weights.
        eta: concentration at low losses.
        noise: random part of the direction per step, against periodic orbits.
        weight_decay: adds half of it times |Theta|^2 to the loss.
        seed: of the noise.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.4,
        eta: float = 50.0,
        noise: float = 0.02,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "eta": eta, "noise": noise, "weight_decay": weight_decay})
        self._seed = seed
        self._generator: torch.Generator | None = None
        self._direction: list[Tensor] = []
        self._lowest = math.inf

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the closure computes the loss and its gradient."""
        if closure is None:
            raise ValueError("EnergyConserving: expected a closure that returns the loss")
        with torch.enable_grad():
            loss = closure()
        (group,) = self.param_groups
        weights = [weight for weight in group["params"] if weight.grad is not None]
        decay = group["weight_decay"]
        gradients = [weight.grad + decay * weight for weight in weights]
        height = float(loss) + 0.5 * decay * sum(float(weight.square().sum()) for weight in weights)
        self._lowest = min(self._lowest, height)
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
        if norm > 0 and math.isfinite(height):
            self._steer([-gradient / norm for gradient in gradients], norm / (height - self._lowest + _GAP), group)
        for weight, direction in zip(weights, self._direction, strict=False):
            weight.add_(direction, alpha=group["lr"])
        return loss

    def _steer(self, downhill: list[Tensor], slope: float, group: dict[str, Any]) -> None:
        """Turn towards the unit vector ``downhill``; ``slope`` is |grad F| / V."""
        if not self._direction:
            self._direction = downhill
            self._generator = torch.Generator(downhill[0].device).manual_seed(self._seed)
            return
        d = sum(part.numel() for part in downhill)
        turn = group["lr"] * group["eta"] * d / (2 * max(d - 1, 1)) * slope
        along = sum(float((u * e).sum()) for u, e in zip(self._direction, downhill, strict=True))
        # Both numerator and denominator divided by exp(turn), which may overflow.
        fade = math.exp(-turn)
        push = 0.5 * (1 - fade**2) + along * 0.5 * (1 - fade) ** 2
        turned = [fade * u + push * e for u, e in zip(self._direction, downhill, strict=True)]
        length = _length(turned)
        kick = group["noise"] / math.sqrt(d)
        moved = [u / length + kick * self._noise(u) for u in turned]
        length = _length(moved)
        self._direction = [u / length for u in moved]

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)


def _length(vector: list[Tensor]) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in vector))
