"""The learned ratio as fits use it: local normalisation, where the estimator asks for it, is divided out."""

from __future__ import annotations

import torch
from torch import Tensor

from touchneedle.estimators.base import Estimator, in_float32


def normalised_log_ratio(estimator: Estimator, x: Tensor, theta: Tensor) -> Tensor:
    """log_ratio (n, m) at points theta (m, p), local normalisation subtracted; by networks in float32."""
    estimator = in_float32(estimator)
    with torch.no_grad():
        both = torch.cat([theta, estimator.spec.parameters.nominal[None].to(theta)])
        constant = estimator.log_normalisation(both)
        return estimator.log_ratio_grid(x, theta) - (constant[:-1] - constant[-1])


class LearnedRatio:
    """The ratio between points, for many events: networks in float32, and the normalisation of each point only once.

    float32 is twice as fast, and its 1e-6 is nothing to a closure test. Controls without parameters stay in float64.
    """

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = in_float32(estimator)
        self.signed = "signed" in estimator.capabilities
        self.nominal = estimator.spec.parameters.nominal
        self._known: dict[tuple[float, ...], Tensor] = {}

    def between(self, x: Tensor, start: Tensor, ends: Tensor) -> Tensor:
        """r(x|b) / r(x|a) from one point a (p,) to points b (m, p), for x (n, d): shape (n, m), float64.

        NaN from anywhere but nominal for a signed estimator: the quotient has poles where r(x|a) changes its sign.
        """
        from_nominal = bool((start == self.nominal).all())
        with torch.no_grad():
            if self.signed:
                return self._signed(x, ends) if from_nominal else x.new_full((len(x), len(ends)), torch.nan).double()
            if from_nominal:
                return self._log_ratio(x, ends).exp()
            log_ratio = self._log_ratio(x, torch.cat([start[None], ends]))
            return (log_ratio[:, 1:] - log_ratio[:, :1]).exp()

    def _signed(self, x: Tensor, theta: Tensor) -> Tensor:
        columns = [self.estimator.ratio(x, point).double().cpu() for point in theta]
        return torch.stack(columns, -1) * (-self._log_constant(theta)).exp()

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        """log_ratio (n, m); it is 0 at nominal by definition, which is not looked up."""
        moved = (theta != self.nominal).any(-1)
        log_ratio = torch.zeros(len(x), len(theta), dtype=torch.float64)
        if bool(moved.any()):
            grid = self.estimator.log_ratio_grid(x, theta[moved]).cpu()
            log_ratio[:, moved] = grid - self._log_constant(theta[moved])
        return log_ratio

    def _log_constant(self, theta: Tensor) -> Tensor:
        """log E[r] less its value at nominal, at points (m, p): shape (m,)."""
        keys = [tuple(point.tolist()) for point in theta]
        new = [index for index, key in enumerate(keys) if key not in self._known]
        if new:
            both = self.estimator.log_normalisation(torch.cat([theta[new], self.nominal[None]])).double().cpu()
            self._known |= dict(zip([keys[index] for index in new], both[:-1] - both[-1], strict=True))
        return torch.stack([self._known[key] for key in keys])
