"""Baseline: a kernel density estimate of (x, theta), divided by that of theta.

    p(x|theta) = sum_i w_i K(x - x_i) L(theta - theta_i) / sum_i w_i L(theta - theta_i)

with Gaussian kernels (Rosenblatt 1969). Each feature and each parameter has a bandwidth; together they maximise the conditional
likelihood of events left out one at a time (Hall, Racine, Li 2004, J. Am. Stat. Assoc. 99, 1015), which gives a parameter that x does
not feel a wide one; or they follow Scott's rule, n^(-1 / (d + p + 4)) standard deviations. Features are treated as by flows: mapped to
the real line and standardised. Kernels widen what they estimate, and many dimensions of x and theta starve them of events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from touchneedle.conf.errors import SkipCell
from touchneedle.estimators.base import Capability, Design, Estimator
from touchneedle.estimators.standardise import Standardise, mean_weight
from touchneedle.estimators.support import SupportMap
from touchneedle.toys.base import EventSource, ToySpec, collect

_ENTRIES_IN_MEMORY = 2**23
_LEFT_OUT = 500
_STEPS = 40
# Bandwidths stay within exp(+-4) standard deviations.
_LARGEST_LOG = 4.0


@dataclass
class KernelDensityConfig:
    """Options of `KernelDensity`.

    Attributes:
        kernels: at most that many training events are kept, evenly spaced; the cost of every answer is in proportion.
        bandwidth: ``likelihood`` of left-out events, or ``scott``.
        adaptive: kernels in x are wider where events are few, by density^(-1/2) (Abramson 1982).
    """

    kernels: PositiveInt = 2_000
    bandwidth: Literal["likelihood", "scott"] = "likelihood"
    adaptive: bool = False


class KernelDensity(Estimator):
    """A density without training. Needs events of positive weight: `prepare` raises `SkipCell` for others."""

    Config = KernelDensityConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset({"log_prob", "sample", "score"})
    designs: ClassVar[frozenset[Design]] = frozenset({"prior", "templates", "templates_joint"})
    normalised = True

    log_weight: Tensor
    points: Tensor
    contexts: Tensor
    widening: Tensor
    bandwidth: Tensor

    def __init__(self, spec: ToySpec, config: KernelDensityConfig) -> None:
        super().__init__(spec, config)
        self.support = SupportMap(spec.features)
        self.standardise_x = Standardise(spec.x_dim)
        self.standardise_theta = Standardise(spec.theta_dim)
        self.register_buffer("log_weight", torch.zeros(1))
        self.register_buffer("points", torch.zeros(1, spec.x_dim))
        self.register_buffer("contexts", torch.zeros(1, spec.theta_dim))
        self.register_buffer("widening", torch.ones(1))
        self.register_buffer("bandwidth", torch.ones(spec.x_dim + spec.theta_dim))

    @property
    def rows_per_chunk(self) -> int:
        """Fewer than elsewhere: each row meets all kernels."""
        return max(1, _ENTRIES_IN_MEMORY // len(self.points))

    def _prepare(self, source: EventSource) -> None:
        events = collect(source)
        if bool((events.weight < 0).any()):
            raise SkipCell("kernel_density needs events of positive weight: its kernels are densities")
        mean_weight(events.weight)
        events = events[events.weight > 0]
        kept = torch.linspace(0, len(events) - 1, min(self.config.kernels, len(events)), dtype=torch.float64).round().long()
        events = events[kept]
        mapped = self.support(events.x.double())[0]
        self.standardise_x.learn(mapped, events.weight)
        self.standardise_theta.learn(events.theta, events.weight)
        self.points = self.standardise_x(mapped).to(self.points)
        self.contexts = self.standardise_theta(events.theta).to(self.contexts)
        self.log_weight = (events.weight.double() / events.weight.double().sum()).log().to(self.log_weight)
        self._learn_bandwidths()

    def _learn_bandwidths(self) -> None:
        n, columns = len(self.points), len(self.bandwidth)
        self.widening = torch.ones_like(self.log_weight)
        self.bandwidth = torch.full_like(self.bandwidth, n ** (-1 / (columns + 4)))
        if self.config.adaptive:
            log_pilot = log_kernels(self.points, self.points, self._split(self.bandwidth)[0]).logsumexp(1)
            self.widening = (-0.5 * (log_pilot - log_pilot.mean())).exp()
        if self.config.bandwidth == "likelihood" and n > 1:
            self.bandwidth = self._most_likely_bandwidth().to(self.bandwidth)

    def _most_likely_bandwidth(self) -> Tensor:
        """Bandwidths (d + p,) of the largest conditional likelihood of events that are left out one at a time."""
        left_out = torch.linspace(0, len(self.points) - 1, min(_LEFT_OUT, len(self.points))).round().long()
        logarithm = self.bandwidth.log().requires_grad_()
        optimiser = torch.optim.LBFGS([logarithm], max_iter=_STEPS, line_search_fn="strong_wolfe")
        weight = self.log_weight[left_out].softmax(0)
        itself = torch.zeros(len(left_out), len(self.points), dtype=torch.bool, device=self.device)
        itself[torch.arange(len(left_out)), left_out] = True

        def closure() -> Tensor:
            optimiser.zero_grad()
            in_x, in_theta = self._split(logarithm.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp())
            log_theta = log_kernels(self.contexts[left_out], self.contexts, in_theta) + self.log_weight
            log_theta = log_theta.masked_fill(itself, -math.inf)
            log_joint = log_theta + log_kernels(self.points[left_out], self.points, in_x, self.widening)
            loss = -(weight * (log_joint.logsumexp(1) - log_theta.logsumexp(1))).sum()
            torch.autograd.backward(loss, inputs=[logarithm])
            return loss.detach()

        with torch.enable_grad():
            optimiser.step(closure)
        return logarithm.detach().clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()

    def _log_ratio(self, x: Tensor, theta: Tensor) -> Tensor:
        log_x, _ = self._log_kernels_x(x)
        return self._log_conditional(log_x, theta) - self._log_conditional(log_x, self.nominal.expand_as(theta))

    def _relative_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._log_conditional(self._log_kernels_x(x)[0], theta)

    def _log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        log_x, log_jacobian = self._log_kernels_x(x)
        outside = torch.full((), -math.inf, dtype=x.dtype, device=x.device)
        return torch.where(self.support.inside(x), self._log_conditional(log_x, theta) + log_jacobian, outside)

    def _log_ratio_grid(self, x: Tensor, theta: Tensor) -> Tensor:
        log_x, _ = self._log_kernels_x(x)
        log_theta = self._log_kernels_theta(torch.cat([self.nominal[None], theta]))
        values = _log_products(log_x, log_theta) - log_theta.logsumexp(1)
        return values[:, 1:] - values[:, :1]

    def _sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        parts = []
        for part in theta.split(self.rows_per_chunk):
            chances = self._log_kernels_theta(part).double().softmax(1).to(generator.device)
            chosen = torch.multinomial(chances, 1, generator=generator).squeeze(1).to(theta.device)
            noise = torch.randn(len(part), self.spec.x_dim, generator=generator, dtype=torch.float64, device=generator.device)
            width = self.widening[chosen, None] * self._split(self.bandwidth)[0]
            parts.append(self.points[chosen] + width * noise.to(theta))
        return self.support.inverse(self.standardise_x.inverse(torch.cat(parts)))

    def _log_conditional(self, log_x: Tensor, theta: Tensor) -> Tensor:
        """log p(z|theta) from the kernels in x (n, N): shape (n,)."""
        log_theta = self._log_kernels_theta(theta)
        return (log_x + log_theta).logsumexp(1) - log_theta.logsumexp(1)

    def _log_kernels_x(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels (n, N) at z of x, and log |dz/dx| (n,)."""
        mapped, log_jacobian = self.support(x)
        log_x = log_kernels(self.standardise_x(mapped), self.points, self._split(self.bandwidth)[0], self.widening)
        return log_x, log_jacobian + self.standardise_x.log_jacobian()

    def _log_kernels_theta(self, theta: Tensor) -> Tensor:
        """log w_i L(theta - theta_i), shape (m, N), up to a constant."""
        return log_kernels(self.standardise_theta(theta), self.contexts, self._split(self.bandwidth)[1]) + self.log_weight

    def _split(self, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
        return bandwidth[: self.spec.x_dim], bandwidth[self.spec.x_dim :]


def log_kernels(at: Tensor, centres: Tensor, bandwidth: Tensor, widening: Tensor | None = None) -> Tensor:
    """Log of Gaussian kernels around ``centres`` (N, c) at places (n, c), with bandwidths (c,) times ``widening`` (N,): shape (n, N)."""
    a, b = at / bandwidth, centres / bandwidth
    square = a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)
    log_norm = -bandwidth.log().sum() - 0.5 * len(bandwidth) * math.log(2 * math.pi)
    if widening is None:
        return log_norm - 0.5 * square
    return log_norm - len(bandwidth) * widening.log() - 0.5 * square / widening.square()


def _log_products(log_x: Tensor, log_theta: Tensor) -> Tensor:
    """log sum_i exp(log_x (n, N) + log_theta (m, N)), shape (n, m): a matrix product, and where that underflows the sum itself."""
    top_x, top_theta = log_x.amax(1, keepdim=True), log_theta.amax(1, keepdim=True)
    product = (log_x - top_x).exp() @ (log_theta - top_theta).exp().T
    value = product.log() + top_x + top_theta.T
    row, column = (product < torch.finfo(product.dtype).tiny ** 0.5).nonzero(as_tuple=True)
    if len(row):
        value[row, column] = (log_x[row] + log_theta[column]).logsumexp(1)
    return value
