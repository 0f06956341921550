"""A Gaussian process over nuisances that is zero at nominal, as a linear interpolation between given points.

The kernel is c exp(-|(u - u') / l|^2 / 2) with a length l for each nuisance (constant times RBF), conditioned on the value 0 at u = 0:

    K(u, u') = k(u, u') - k(u, 0) k(0, u') / c

The mean at u of a process with values g at the points is K(u, points) (K + noise)^-1 g (Rasmussen, Williams 2006, eq. 2.25): the
weights of the points do not depend on g. All events are draws of one process, so that c, l and the noise maximise the likelihood of
their second moments. Far from all points the mean returns to 0, unless the lengths are long.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_STEPS = 100
# Lengths in units of the points' distance from nominal; beyond the longest the process is a straight line.
_SHORTEST, _LONGEST = 0.5, 20.0
_LEAST_NOISE = 1e-6


class MorphingProcess(nn.Module):
    """Weights of J points in a space of q nuisances.

    Attributes:
        points: in units of the anchors' distance (J, q).
        log_length: (q,).
        log_constant, log_noise: logarithms of c and of the variance of the noise.
    """

    points: Tensor
    log_length: Tensor
    log_constant: Tensor
    log_noise: Tensor

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.register_buffer("points", points.clone())
        self.register_buffer("log_length", torch.full((points.shape[1],), 0.7))
        self.register_buffer("log_constant", torch.zeros(()))
        self.register_buffer("log_noise", torch.full((), -9.0))

    def learn(self, values: Tensor, weight: Tensor) -> None:
        """Lengths, constant and noise of largest likelihood for values (n, J) of events with positive weights (n,)."""
        share = weight.double() / weight.double().sum()
        moments = values.double().T @ (share[:, None] * values.double())
        scale = (moments.diagonal().mean() + _LEAST_NOISE).log()
        start = [torch.zeros(self.points.shape[1], dtype=scale.dtype), scale[None].cpu(), scale[None].cpu() - 7]
        parameters = torch.cat(start).to(moments.device).requires_grad_()
        optimiser = torch.optim.LBFGS([parameters], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            log_length, log_constant, log_noise = self._split(parameters)
            factor = torch.linalg.cholesky(self._covariance(log_length, log_constant, log_noise))
            loss = factor.diagonal().log().sum() + 0.5 * torch.cholesky_solve(moments, factor).diagonal().sum()
            torch.autograd.backward(loss, inputs=[parameters])
            return loss.detach()

        with torch.enable_grad():
            optimiser.step(closure)
        learned = self._split(parameters.detach())
        self.log_length, self.log_constant, self.log_noise = (value.to(self.points) for value in learned)

    def forward(self, u: Tensor) -> Tensor:
        """Weights (n, J) of the values at the points for the mean at u (n, q); computed in float64."""
        hyper = self.log_length.double(), self.log_constant.double()
        factor = torch.linalg.cholesky(self._covariance(*hyper, self.log_noise.double()))
        cross = _kernel(u.double(), self.points.double(), *hyper)
        return torch.cholesky_solve(cross.T, factor).T.to(u)

    def _covariance(self, log_length: Tensor, log_constant: Tensor, log_noise: Tensor) -> Tensor:
        points = self.points.double()
        noise = log_noise.exp() + _LEAST_NOISE * log_constant.exp()
        return _kernel(points, points, log_length, log_constant) + noise * torch.eye(len(points), dtype=points.dtype, device=points.device)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log lengths, between the shortest and the longest, log constant and log noise."""
        reach = math.log(_LONGEST / _SHORTEST)
        return math.log(_SHORTEST) + reach * torch.sigmoid(parameters[:-2]), parameters[-2].clamp(-20, 20), parameters[-1].clamp(-20, 5)


def _kernel(a: Tensor, b: Tensor, log_length: Tensor, log_constant: Tensor) -> Tensor:
    """K(a, b) (n, m) of a (n, q) and b (m, q)."""
    a, b = a / log_length.exp(), b / log_length.exp()
    in_a, in_b = 0.5 * a.square().sum(1, keepdim=True), 0.5 * b.square().sum(1)
    return log_constant.exp() * torch.exp(-in_a - in_b) * torch.expm1(a @ b.T)
